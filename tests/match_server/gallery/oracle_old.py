"""The plainest gallery that is right: one matrix product over all rows, ranked in float64."""

import threading

import numpy as np
from numpy.typing import NDArray

from match_server.gallery.contract import Candidates
from shared.errors import Conflict, MalformedInput


class ExactGallery:
    """All rows in memory as float16, widened for each search. Obviously right, and slow."""

    def __init__(self, dimension: int) -> None:
        self._lock = threading.Lock()
        self._ids = np.empty(0, dtype=np.uint64)
        self._rows = np.empty((0, dimension), dtype=np.float16)

    def add(self, ids: NDArray[np.uint64], vectors: NDArray[np.float32]) -> None:
        if vectors.shape != (ids.shape[0], self._rows.shape[1]):
            raise MalformedInput(f"{ids.shape[0]} ids and rows of shape {vectors.shape} do not fit")
        with self._lock:
            if np.unique(ids).shape != ids.shape or np.isin(ids, self._ids).any():
                raise Conflict("an id is already in the gallery")
            self._rows = np.concatenate([self._rows, vectors.astype(np.float16)])
            self._ids = np.concatenate([self._ids, ids])

    def remove(self, ids: NDArray[np.uint64]) -> int:
        with self._lock:
            keep = ~np.isin(self._ids, ids)
            self._ids, self._rows = self._ids[keep], self._rows[keep]
            return int((~keep).sum())

    def search(
        self,
        probes: NDArray[np.float32],
        limit: int,
        *,
        threshold: float = -1.0,
        among: NDArray[np.uint64] | None = None,
    ) -> list[Candidates]:
        with self._lock:
            ids, rows = self._ids, self._rows
        if among is not None:
            kept = np.isin(ids, among)
            ids, rows = ids[kept], rows[kept]
        similarities = probes.astype(np.float64) @ rows.astype(np.float64).T
        return [_ranked(ids, row, limit, threshold) for row in similarities]

    def __len__(self) -> int:
        return int(self._ids.shape[0])


def _ranked(
    ids: NDArray[np.uint64], similarities: NDArray[np.float64], limit: int, threshold: float
) -> Candidates:
    order = np.lexsort((ids, -similarities))
    order = order[similarities[order] >= threshold][:limit]
    return Candidates(ids[order], similarities[order].astype(np.float32))
