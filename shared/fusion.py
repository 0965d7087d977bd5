"""Fusing templates of one track: from which likeness on, and how. Boxes and server do the same."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from shared.wire.template import Template, unit_rows

SAME_PERSON: Final = 0.35
"""Cosine from which two shots of a track are fused where no calibration says better.

Of pictures of different people one pair in a thousand reaches it, of pictures of one person 994
(docs/decisions/0036).
"""

SAME_PERSON_FMR: Final = 1e-3
"""The same limit as a false match rate, for those who have a calibration of the model."""

_LEAST_WEIGHT: Final = 1e-3


def weighted_mean(shots: Sequence[tuple[float, Template]]) -> tuple[Template, float]:
    """The mean of (weight, template) at unit length, and the length of the weighted sum.

    The length is the weight with which the result is fused again with further shots. All are of
    one model. Raises MalformedInput where the templates cancel each other out.
    """
    weights = np.array([max(weight, _LEAST_WEIGHT) for weight, _ in shots], np.float64)
    total = weights @ np.stack([template.vector for _, template in shots]).astype(np.float64)
    mean = unit_rows(total[np.newaxis])[0]
    return Template(shots[0][1].model_id, mean), float(np.linalg.norm(total))
