"""All contenders with one interface: rows in, ids and similarities out."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from shared.gallery import open_gallery
from tests.benchmarks.gallery.people import DIMENSION, Rows

Results = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Ids and similarities (p, limit); -1 where a list is shorter."""


class Contender(Protocol):
    """A gallery that is built once and then searched."""

    name: str
    scanned: float  # bytes of each template that a search without a threshold must read
    resident: float  # bytes of each template in memory

    def build(self, rows: Rows) -> None: ...

    def search(self, probes: Rows, limit: int, threshold: float, threads: int) -> Results: ...


class Muster:
    """This product, all in memory."""

    name = "muster"
    scanned = 256 + 2  # high and middle plane, and the length of what they leave out
    resident = 512 + 6 + 8 + 1 / 8 + 1024  # planes, lengths, ids, alive, rows

    def build(self, rows: Rows) -> None:
        self._galleries = {1: open_gallery(None, DIMENSION, threads=1)}
        ids = np.arange(rows.shape[0], dtype=np.uint64)
        self._galleries[1].add(ids, rows)

    def search(self, probes: Rows, limit: int, threshold: float, threads: int) -> Results:
        gallery = self._galleries[1]
        gallery._threads = threads
        lists = gallery.search(probes, limit, threshold=threshold)
        ids = np.full((probes.shape[0], limit), -1, dtype=np.int64)
        similarities = np.zeros(ids.shape)
        for i, candidates in enumerate(lists):
            ids[i, : len(candidates)] = candidates.ids
            similarities[i, : len(candidates)] = candidates.similarities
        return ids, similarities


class NumpyFloat32:
    """One matrix product over all rows, and a partition of all similarities."""

    name = "numpy-f32"
    scanned = resident = 2048

    def build(self, rows: Rows) -> None:
        self._rows = rows

    def search(self, probes: Rows, limit: int, threshold: float, threads: int) -> Results:
        with threadpool_limits(threads, user_api="blas"):
            if probes.shape[0] == 1:
                similarities = (self._rows @ probes[0])[None]
            else:
                similarities = probes @ self._rows.T
        best = np.argpartition(similarities, -limit, axis=1)[:, -limit:]
        values = np.take_along_axis(similarities, best, axis=1)
        order = np.argsort(-values, axis=1)
        return np.take_along_axis(best, order, axis=1), np.take_along_axis(values, order, axis=1)


class Faiss:
    """faiss-cpu: IndexFlatIP, or a scalar quantiser."""

    def __init__(self, name: str, scanned: float, make: Callable[[], object]) -> None:
        self.name = name
        self.scanned = self.resident = scanned
        self._make = make

    def build(self, rows: Rows) -> None:
        self.index = self._make()
        if not self.index.is_trained:  # type: ignore[attr-defined]
            self.index.train(rows[:100_000])  # type: ignore[attr-defined]
        self.index.add(rows)  # type: ignore[attr-defined]

    def search(self, probes: Rows, limit: int, threshold: float, threads: int) -> Results:
        import faiss

        faiss.omp_set_num_threads(threads)
        similarities, ids = self.index.search(probes, limit)  # type: ignore[attr-defined]
        return ids, similarities


class UsearchExact:
    """usearch's exact search over an array of float32, float16 or int8."""

    def __init__(self, name: str, dtype: type[np.generic]) -> None:
        self.name = name
        self._dtype = dtype
        self.scanned = self.resident = DIMENSION * np.dtype(dtype).itemsize

    def build(self, rows: Rows) -> None:
        self._rows = self._converted(rows)

    def _converted(self, rows: Rows) -> NDArray[np.generic]:
        if self._dtype is np.int8:
            converted = np.empty(rows.shape, dtype=np.int8)
            for start in range(0, rows.shape[0], 65536):
                converted[start : start + 65536] = np.rint(rows[start : start + 65536] * 127)
            return converted
        return rows.astype(self._dtype)

    def search(self, probes: Rows, limit: int, threshold: float, threads: int) -> Results:
        from usearch.index import MetricKind, search

        results = search(
            self._rows, self._converted(probes), limit, MetricKind.Cos, exact=True, threads=threads
        )
        keys = np.atleast_2d(results.keys).astype(np.int64)
        return keys, 1.0 - np.atleast_2d(results.distances).astype(np.float64)


def _flat() -> object:
    import faiss

    return faiss.IndexFlatIP(DIMENSION)


def _quantised(kind: str) -> Callable[[], object]:
    def make() -> object:
        import faiss

        return faiss.IndexScalarQuantizer(
            DIMENSION, getattr(faiss.ScalarQuantizer, kind), faiss.METRIC_INNER_PRODUCT
        )

    return make


class Hnsw:
    """hnswlib at its usual settings: not exact, for comparison only."""

    name = "hnswlib"
    scanned = 2048
    resident = 2048 + 8 * 16 + 8

    def build(self, rows: Rows) -> None:
        import hnswlib

        self._index = hnswlib.Index(space="ip", dim=DIMENSION)
        self._index.init_index(max_elements=rows.shape[0], ef_construction=200, M=16)
        self._index.add_items(rows)
        self._index.set_ef(100)

    def search(self, probes: Rows, limit: int, threshold: float, threads: int) -> Results:
        ids, distances = self._index.knn_query(probes, k=limit, num_threads=threads)
        return ids.astype(np.int64), 1.0 - distances.astype(np.float64)


PEERS: dict[str, Callable[[], Contender]] = {
    "numpy-f32": NumpyFloat32,
    "faiss-flat": lambda: Faiss("faiss-flat", 2048, _flat),
    "faiss-sq8": lambda: Faiss("faiss-sq8", 512, _quantised("QT_8bit")),
    "faiss-sqfp16": lambda: Faiss("faiss-sqfp16", 1024, _quantised("QT_fp16")),
    "usearch-f32": lambda: UsearchExact("usearch-f32", np.float32),
    "usearch-f16": lambda: UsearchExact("usearch-f16", np.float16),
    "usearch-i8": lambda: UsearchExact("usearch-i8", np.int8),
    "hnswlib": Hnsw,
}
USUAL_PEERS = ("numpy-f32", "faiss-flat", "faiss-sq8", "usearch-f32", "usearch-i8")
