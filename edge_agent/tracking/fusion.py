"""One template of several shots of one track."""

from collections.abc import Sequence

import numpy as np

from shared.template import Template, unit_rows


def fuse(shots: Sequence[tuple[float, Template]]) -> Template:
    """The mean of the templates, weighted by their shots' quality scores, at unit length again.

    All are of one model, and of one person: opposite templates have no mean direction. Of a single
    shot it is that shot's template. Raises ValueError for none.
    """
    if not shots:
        raise ValueError("nothing can be fused from no shot")
    if len(shots) == 1:
        return shots[0][1]
    weights = np.array([max(score, 1e-3) for score, _ in shots], np.float32)
    vectors = np.stack([template.vector for _, template in shots])
    mean = (weights / weights.sum()) @ vectors
    return Template(shots[0][1].model_id, unit_rows(mean[np.newaxis])[0])
