"""The result of a search."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The candidate list of one probe: best first, ties by id."""

    ids: NDArray[np.uint64]  # (k,)
    similarities: NDArray[np.float32]  # (k,) cosine with the stored rows, computed in float64

    def __len__(self) -> int:
        return int(self.ids.shape[0])
