"""Makes templates from aligned chips."""

import math

import numpy as np
from numpy.typing import NDArray

from models.alignment import ARCFACE, Alignment
from models.onnx_session import Session
from models.preprocessing import InputSpec, Layout
from shared.errors import PackError
from shared.wire.template import Template, unit_rows


class Embedder:
    """A graph that computes features of aligned chips."""

    def __init__(
        self,
        session: Session,
        spec: InputSpec,
        model_id: str,
        dimension: int,
        alignment: Alignment = ARCFACE,
    ) -> None:
        """Raises PackError if the graph does not return `dimension` values for each chip."""
        shapes = session.output_shapes
        values = [side for side in shapes[0][1:] if isinstance(side, int)]
        known = len(values) == len(shapes[0]) - 1
        if len(shapes) != 1 or (known and math.prod(values) != dimension):
            raise PackError(f"{model_id}: the graph returns {shapes}, not {dimension} values")
        self.model_id = model_id
        self.dimension = dimension
        self.alignment = alignment
        self._session = session
        self._layout = Layout(spec)

    def embed(self, chips: NDArray[np.uint8]) -> list[Template]:
        """Returns the templates of chips (n, height, width, 3) BGR of the size of `alignment`.

        Raises MalformedInput for features that are zero or not finite.
        """
        if len(chips) == 0:
            return []
        (features,) = self._session.run_each(self._layout.batch(chips))
        rows = unit_rows(features.reshape(len(chips), -1))
        return [Template(self.model_id, row) for row in rows]
