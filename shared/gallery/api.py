"""The interface of galleries: the templates of one collection, searchable by similarity."""

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
        """Adds unit rows (n, d) with new ids (n,). Stored as float16, searchable on return."""
        ...

    def remove(self, ids: NDArray[np.uint64]) -> int:
        """Removes ids and returns how many were present. Unknown ids are ignored."""
        ...

    def search(
        self,
        probes: NDArray[np.float32],
        limit: int,
        *,
        threshold: float = -1.0,
        among: NDArray[np.uint64] | None = None,
    ) -> list[Candidates]:
        """Returns one candidate list for each probe row (n, d).

        A list has at most `limit` candidates with a similarity of at least `threshold`; with
        `among`, only candidates with these ids.
        """
        ...

    def __len__(self) -> int: ...
