"""What a gallery is: the templates of one collection, searchable by similarity."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The candidate list of one probe: best first, ties by id."""

    ids: NDArray[np.uint64]  # (k,)
    similarities: NDArray[np.float32]  # (k,) cosine with the stored rows, computed in float64

    def __len__(self) -> int:
        return int(self.ids.shape[0])


class Gallery(Protocol):
    """Templates of one collection, searchable. Thread-safe."""

    def add(self, ids: NDArray[np.uint64], vectors: NDArray[np.float32]) -> None:
        """Add unit rows (n, d) under new ids (n,): stored as float16, searchable on return."""
        ...

    def remove(self, ids: NDArray[np.uint64]) -> int:
        """Remove these ids; unknown ones are ignored. Answers how many were there."""
        ...

    def search(
        self,
        probes: NDArray[np.float32],
        limit: int,
        *,
        threshold: float = -1.0,
        among: NDArray[np.uint64] | None = None,
    ) -> list[Candidates]:
        """One candidate list for each probe row (n, d).

        At most `limit` long, similarities from `threshold` up, ids in `among` where it is given.
        """
        ...

    def __len__(self) -> int: ...
