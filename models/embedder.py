"""From aligned chips to templates."""

import math

import numpy as np
from numpy.typing import NDArray

from models.alignment import ARCFACE, Alignment
from models.onnx_session import Session
from models.preprocessing import InputSpec, Layout
from shared.errors import PackError
from shared.wire.template import Template, unit_rows


class Embedder:
    """A graph that turns aligned chips into features."""

    def __init__(
        self,
        session: Session,
        spec: InputSpec,
        model_id: str,
        dimension: int,
        alignment: Alignment = ARCFACE,
    ) -> None:
        """PackError when the graph does not return one row of `dimension` values a chip."""
        shapes = session.output_shapes
        values = [side for side in shapes[0][1:] if isinstance(side, int)]
        known = len(values) == len(shapes[0]) - 1
        if len(shapes) != 1 or (known and math.prod(values) != dimension):
            raise PackError(f"{model_id}: the graph answers {shapes}, not {dimension} values")
        self.model_id = model_id
        self.dimension = dimension
        self.alignment = alignment
        self._session = session
        self._layout = Layout(spec)

    def embed(self, chips: NDArray[np.uint8]) -> list[Template]:
        """Templates of chips (n, height, width, 3) BGR of the size that `alignment` states.

        Raises MalformedInput when the graph answers something that is no direction.
        """
        if len(chips) == 0:
            return []
        (features,) = self._session.run_each(self._layout.batch(chips))
        rows = unit_rows(features.reshape(len(chips), -1))
        return [Template(self.model_id, row) for row in rows]
