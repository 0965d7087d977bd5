"""Compares every picture with every other, and counts similarities on a grid.

The matrix of similarities is computed in tiles of bounded size.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from match_server.calibration.grid import BINS, bins_of

MAX_GROUPS = 64
"""Persons are resampled in at most so many groups; pairs are counted for each two groups."""

_TILE_ROWS, _TILE_COLUMNS = 512, 2048
_KEPT_PAIRS = 20
_CANDIDATES = 512  # pairs of a tile, of which the most similar are kept


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and standard deviation of similarities, exact (not from the grid)."""

    count: int
    mean: float
    sd: float


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """The similarity of two pictures, which are numbered in the order of the input."""

    similarity: float
    first: int
    second: int


@dataclass(frozen=True, slots=True, eq=False)
class Comparisons:
    """All comparisons of a set of pictures."""

    genuine: NDArray[np.int64]  # (groups, BINS) of the same person, by the person's group
    impostor: NDArray[np.int64]  # (groups, groups, BINS) of two persons, by their groups
    genuine_moments: Moments
    impostor_moments: Moments
    persons: int  # with a picture
    persons_mated: int  # with two pictures or more
    pictures: int
    groups: NDArray[np.int64]  # (pictures,) group of each picture's person
    mated_best: NDArray[np.float32]  # (pictures,) highest to the same person; NaN: none
    impostor_best: NDArray[np.float32]  # (pictures,) highest to another person; NaN: none
    lookalikes: Sequence[Pair]  # the most similar pair of each two persons, best first
    unlike: Sequence[Pair]  # the least similar pictures of one person, worst first

    @property
    def person_pairs(self) -> int:
        """Pairs of different persons."""
        return self.persons * (self.persons - 1) // 2


class Tally:
    """Counts similarities by the groups of the compared persons."""

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self.genuine = np.zeros(groups * BINS, dtype=np.int64)
        self.impostor = np.zeros(groups * groups * BINS, dtype=np.int64)
        self._sums = {True: np.zeros(3), False: np.zeros(3)}  # count, sum, sum of squares

    def add_genuine(self, similarities: NDArray[np.floating], groups: NDArray[np.integer]) -> None:
        """Adds similarities (n,) of pictures of one person, with the groups (n,) of the persons."""
        places = groups * BINS + bins_of(similarities)
        self.genuine += np.bincount(places, minlength=self.genuine.size)
        self._add(True, similarities)

    def add_impostor(
        self,
        similarities: NDArray[np.floating],
        first: NDArray[np.integer],
        second: NDArray[np.integer],
    ) -> None:
        """Adds similarities (n,) of pictures of two persons, with the groups (n,) of both."""
        low, high = np.minimum(first, second), np.maximum(first, second)
        places = (low * self._groups + high) * BINS + bins_of(similarities)
        self.impostor += np.bincount(places, minlength=self.impostor.size)
        self._add(False, similarities)

    def moments(self, *, genuine: bool) -> Moments:
        count, total, squares = self._sums[genuine].tolist()
        mean = total / count if count else 0.0
        variance = max(squares / count - mean**2, 0.0) if count else 0.0
        return Moments(int(count), mean, variance**0.5)

    def _add(self, genuine: bool, similarities: NDArray[np.floating]) -> None:
        values = similarities.astype(np.float64)
        self._sums[genuine] += (values.size, values.sum(), np.square(values).sum())


def compare(rows: NDArray[np.float16], persons: NDArray[np.int64], *, seed: int = 0) -> Comparisons:
    """Compares templates (n, dimension), unit rows, of the persons (n,) numbered from 0.

    It needs the memory of the templates and of one tile, for any number of pairs.
    """
    number = int(persons.max()) + 1 if persons.size else 0
    groups = _groups(number, seed)[persons] if number else persons
    count = min(number, MAX_GROUPS)
    tally = Tally(count)
    nobody = np.float32(-np.inf)
    mated = np.full(len(rows), nobody, dtype=np.float32)
    other = np.full(len(rows), nobody, dtype=np.float32)
    alike: dict[tuple[int, int], Pair] = {}
    unlike: list[Pair] = []
    for top, left, tile in _tiles(rows):
        height, width = tile.shape
        down, across = np.arange(top, top + height), np.arange(left, left + width)
        later = down[:, None] < across[None, :]  # each pair once, no picture with itself
        same = persons[down][:, None] == persons[across][None, :]
        for mask, best in ((later & same, mated), (later & ~same, other)):
            shown = np.where(mask, tile, nobody)
            best[down] = np.maximum(best[down], shown.max(axis=1))
            best[across] = np.maximum(best[across], shown.max(axis=0))
        first, second = np.nonzero(later & same)
        tally.add_genuine(tile[first, second], groups[down[first]])
        unlike = _most_unlike(unlike, tile, first, second, top, left)
        first, second = np.nonzero(later & ~same)
        tally.add_impostor(tile[first, second], groups[down[first]], groups[across[second]])
        _note_alike(alike, tile, first, second, top, left, persons)
    pictures = np.bincount(persons, minlength=number) if number else np.zeros(0, dtype=np.int64)
    return Comparisons(
        genuine=tally.genuine.reshape(count, BINS),
        impostor=tally.impostor.reshape(count, count, BINS),
        genuine_moments=tally.moments(genuine=True),
        impostor_moments=tally.moments(genuine=False),
        persons=int((pictures > 0).sum()),
        persons_mated=int((pictures > 1).sum()),
        pictures=len(rows),
        groups=groups,
        mated_best=np.where(np.isinf(mated), np.nan, mated).astype(np.float32),
        impostor_best=np.where(np.isinf(other), np.nan, other).astype(np.float32),
        lookalikes=sorted(alike.values(), reverse=True),
        unlike=sorted(unlike),
    )


def d_prime(
    genuine_mean: float, genuine_sd: float, impostor_mean: float, impostor_sd: float
) -> float:
    """How many standard deviations lie between genuine and impostor (Daugman, 2000)."""
    spread = np.sqrt((genuine_sd**2 + impostor_sd**2) / 2)
    return float((genuine_mean - impostor_mean) / spread) if spread > 0 else 0.0


def _groups(persons: int, seed: int) -> NDArray[np.int64]:
    """Returns the group of each person; up to MAX_GROUPS persons have a group each."""
    order = np.random.default_rng(seed).permutation(persons)
    groups = np.empty(persons, dtype=np.int64)
    groups[order] = np.arange(persons) % MAX_GROUPS
    return groups


def _tiles(rows: NDArray[np.float16]) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Yields top, left and similarities of each tile on or above the diagonal."""
    for top in range(0, len(rows), _TILE_ROWS):
        upper = rows[top : top + _TILE_ROWS].astype(np.float32)
        for left in range(top, len(rows), _TILE_COLUMNS):
            tile = upper @ rows[left : left + _TILE_COLUMNS].astype(np.float32).T
            yield (
                top,
                left,
                np.clip(tile, -1.0, 1.0, out=tile),
            )  # float16 rows are of unit length approximately


def _most_unlike(
    kept: list[Pair],
    tile: NDArray[np.float32],
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    top: int,
    left: int,
) -> list[Pair]:
    values = tile[first, second]
    lowest = np.argsort(values, kind="stable")[:_KEPT_PAIRS]
    pairs = [
        Pair(float(values[place]), top + int(first[place]), left + int(second[place]))
        for place in lowest
    ]
    return heapq.nsmallest(_KEPT_PAIRS, [*kept, *pairs])


def _note_alike(
    alike: dict[tuple[int, int], Pair],
    tile: NDArray[np.float32],
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    top: int,
    left: int,
    persons: NDArray[np.int64],
) -> None:
    """Keeps the most similar pictures of the most similar pairs of persons."""
    values = tile[first, second]
    count = min(_CANDIDATES, values.size)
    if not count:
        return
    places = np.argpartition(values, values.size - count)[values.size - count :]
    for place in places:
        row, column = top + int(first[place]), left + int(second[place])
        low, high = sorted((int(persons[row]), int(persons[column])))
        pair = Pair(float(values[place]), row, column)
        alike[low, high] = max(alike.get((low, high), pair), pair)
    for key in sorted(alike, key=lambda key: alike[key], reverse=True)[_KEPT_PAIRS:]:
        del alike[key]
