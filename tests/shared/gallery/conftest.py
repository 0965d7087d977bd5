"""An oracle that is slow but obviously right, galleries to compare with it, and all kernels."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.gallery import MemoryIndex, open_gallery
from shared.gallery.candidates import Candidates
from shared.gallery.kernels import compiled_kernels
from shared.gallery.numpy_kernel import NumpyKernel
from shared.gallery.scan import Kernel

Ids = NDArray[np.uint64]
Rows = NDArray[np.float32]

KERNELS: list[Kernel] = [*compiled_kernels(), NumpyKernel()]


@pytest.fixture(params=KERNELS, ids=lambda kernel: kernel.name)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """Each kernel that runs on this machine."""
    chosen: Kernel = request.param
    return chosen


def unit(rows: NDArray[np.floating]) -> Rows:
    """Rows scaled to unit length; a row of zeros becomes the first axis."""
    wide = np.array(rows, dtype=np.float64)
    wide[~wide.any(axis=1), 0] = 1
    result: Rows = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return result


def random_rows(count: int, dimension: int, seed: int = 0) -> Rows:
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)))


@dataclass
class Oracle:
    """Brute force: every similarity as the correctly rounded sum of exact products."""

    rows: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def add(self, ids: Ids, vectors: Rows) -> None:
        stored = vectors.astype(np.float16).astype(np.float64)
        self.rows |= dict(zip(ids.tolist(), stored, strict=True))

    def remove(self, ids: Ids) -> None:
        for each in ids.tolist():
            self.rows.pop(each, None)

    def search(
        self, probe: Rows, limit: int, threshold: float = -1.0, among: Ids | None = None
    ) -> list[tuple[int, float]]:
        wide = probe.astype(np.float64)
        ids = self.rows.keys() if among is None else self.rows.keys() & set(among.tolist())
        ranked = sorted((-math.fsum(self.rows[each] * wide), each) for each in ids)
        return [(each, -low) for low, each in ranked if -low >= threshold][:limit]


def assert_same(candidates: Candidates, expected: list[tuple[int, float]]) -> None:
    """The same ids in the same order, and the same similarities to the last bit of a float32."""
    assert candidates.ids.tolist() == [each for each, _ in expected]
    similarities = np.array([similarity for _, similarity in expected], dtype=np.float32)
    assert candidates.similarities.tobytes() == similarities.tobytes() or np.array_equal(
        candidates.similarities, similarities
    )


@pytest.fixture
def make(kernel: Kernel) -> "type[MemoryIndex] | object":
    """Opens an empty gallery in memory with the kernel under test."""
    return lambda dimension: open_gallery(None, dimension, kernel=kernel, threads=2)
