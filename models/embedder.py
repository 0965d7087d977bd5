"""From aligned chips to templates."""

import numpy as np
from numpy.typing import NDArray

from models.inputs import InputSpec, Layout
from models.session import Session
from shared.template import Template, unit_rows


class Embedder:
    """A graph that turns aligned chips into features."""

    def __init__(self, session: Session, spec: InputSpec, model_id: str, dimension: int) -> None:
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
