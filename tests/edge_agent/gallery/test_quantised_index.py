"""A search with the index returns the same list as a search of all templates."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.gallery.quantised_index import QuantisedIndex
from shared.gallery.kernels import compiled_kernels
from shared.gallery.numpy_kernel import NumpyKernel
from shared.gallery.scan import Kernel

KERNELS: list[Kernel] = [*compiled_kernels(), NumpyKernel()]
COUNT = 9000  # more than two blocks


class Shelf:
    """All rows, and the number of fetched ones."""

    def __init__(self, dimension: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        rows = random.standard_normal((COUNT, dimension))
        self.rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
        self.numbers = random.permutation(np.arange(1, COUNT + 1)).astype(np.uint64)
        self.place = {int(number): place for place, number in enumerate(self.numbers)}
        self.gone: set[int] = set()
        self.fetched = 0

    def fetch(self, numbers: object) -> dict[int, NDArray[np.float16]]:
        expected = [one for one in numbers if one not in self.gone]  # type: ignore[attr-defined]
        self.fetched += len(expected)
        return {one: self.rows[self.place[one]] for one in expected}

    def brute_force(
        self, probe: NDArray[np.float32], limit: int, threshold: float
    ) -> list[tuple[int, float]]:
        scores = self.rows.astype(np.float64) @ probe.astype(np.float64)
        hits = [
            (int(number), float(score))
            for number, score in zip(self.numbers, scores, strict=True)
            if int(number) not in self.gone and score >= threshold
        ]
        return sorted(hits, key=lambda one: (-one[1], one[0]))[:limit]


def probes(shelf: Shelf, dimension: int) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(5)
    made = []
    for turn in range(6):
        row = random.standard_normal(dimension) / np.sqrt(dimension)
        row = row + turn % 3 * shelf.rows[turn * 1000].astype(np.float64)
        made.append((row / np.linalg.norm(row)).astype(np.float32))
    return made


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: str(kernel.name))
@pytest.mark.parametrize("dimension", [40, 512])
def test_every_list_is_that_of_brute_force(kernel: Kernel, dimension: int) -> None:
    shelf = Shelf(dimension, seed=dimension)
    index = QuantisedIndex(dimension, kernel=kernel)
    for start in range(0, COUNT, 1300):  # blocks are filled in parts
        some = slice(start, start + 1300)
        index.add(shelf.numbers[some], shelf.rows[some])
    gone = shelf.numbers[::7]
    index.remove(gone)
    shelf.gone = set(gone.tolist())
    assert len(index) == COUNT - len(gone)
    assert index.removed == len(gone)
    for limit, threshold in ((1, -1.0), (8, -1.0), (8, 0.5)):
        for probe in probes(shelf, dimension):
            got = index.search(probe, limit, threshold, shelf.fetch)
            expected = shelf.brute_force(probe, limit, threshold)
            assert [number for number, _ in got] == [number for number, _ in expected]
            assert [score for _, score in got] == pytest.approx([score for _, score in expected])
    assert shelf.fetched < 0.05 * COUNT * 18  # of 18 searches: the rows are not read one and all


def test_what_the_store_has_lost_is_no_candidate() -> None:
    shelf = Shelf(64, seed=1)
    index = QuantisedIndex(64)
    index.add(shelf.numbers, shelf.rows)
    probe = shelf.rows[4].astype(np.float32)
    (first, _), *_ = index.search(probe, 3, -1.0, shelf.fetch)
    assert first == int(shelf.numbers[4])
    shelf.gone.add(first)  # erased on the disk, a moment before it is here
    assert first not in dict(index.search(probe, 3, -1.0, shelf.fetch))


def test_a_gallery_without_anybody_finds_nobody() -> None:
    index = QuantisedIndex(64)
    probe = np.full(64, 0.125, np.float32)
    assert index.search(probe, 3, -1.0, lambda _: {}) == []
    index.add(np.array([7], np.uint64), np.full((1, 64), 0.125, np.float16))
    index.remove(np.array([7, 8], np.uint64))
    assert index.search(probe, 3, -1.0, lambda _: {}) == []
    assert len(index) == 0
