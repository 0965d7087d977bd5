"""From aligned chips to templates."""

import numpy as np
from numpy.typing import NDArray

from models.inputs import InputSpec, Layout
from models.session import Session
from shared.errors import PackError
from shared.template import Template, unit_rows


class Embedder:
    """A graph that turns aligned chips into features."""

    def __init__(self, session: Session, spec: InputSpec, model_id: str, dimension: int) -> None:
        """PackError when the graph does not answer one row of `dimension` values a chip."""
        shapes = session.output_shapes
        width = shapes[0][-1]
        if len(shapes) != 1 or (isinstance(width, int) and width != dimension):
            raise PackError(f"{model_id}: the graph answers {shapes}, not {dimension} values")
        self.model_id = model_id
        self.dimension = dimension
        self._session = session
        self._layout = Layout(spec)

    def embed(self, chips: NDArray[np.uint8]) -> list[Template]:
        """Templates of chips (n, 112, 112, 3) BGR, in one run of the graph.

        Raises MalformedInput when the graph answers something that is no direction.
        """
        if len(chips) == 0:
            return []
        (features,) = self._session.run_each(self._layout.batch(chips))
        return [Template(self.model_id, row) for row in unit_rows(features)]
