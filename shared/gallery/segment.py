"""A shelf: some templates with their codes, laid out as the kernel reads them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.gallery.codebook import CodeBook

GROUP = 16
"""Templates whose codes are interleaved, so that a scan never sums across lanes."""


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Codes of `16 * groups` places. Layout of high and mid: kernel/flavour.h."""

    high: NDArray[np.uint8]  # (groups, width / 16, 64): first two bits of each coordinate
    mid: NDArray[np.uint8]  # (groups, width / 16, 64): the next two
    low: NDArray[np.uint8]  # (16 * groups, width / 2): four bits of correction
    errors: NDArray[np.uint16]  # (3, 16 * groups): what 2, 4, 8 bits leave out, in 2^-15


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Shelf:
    """Templates at places 0 to count - 1; what lies beyond is room.

    Places below count are never written again, so any number of searches may read them.
    """

    planes: Planes
    rows: NDArray[np.float16]  # (16 * groups, dimension): the templates as stored
    ids: NDArray[np.uint64]  # (16 * groups,)
    count: int
    order: NDArray[np.uint32] | None  # places by ascending id, (0,) in a tail; None: sorted
    seqs: NDArray[np.uint64] | None = None  # (count,) change that brought each; None: all sealed
    name: str | None = None  # of the segment file

    @property
    def groups(self) -> int:
        return int(self.planes.high.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A shelf and which of its templates are alive, at one moment."""

    shelf: Shelf
    alive: NDArray[np.uint16]  # (groups,) one bit a template
    live: int  # number of bits set

    def live_places(self) -> NDArray[np.int64]:
        return np.flatnonzero(np.unpackbits(self.alive.view(np.uint8), bitorder="little"))

    def without(self, places: NDArray[np.int64]) -> "View":
        """This view with these (distinct, alive) places dead."""
        alive = self.alive.copy()
        bits = np.left_shift(1, places & 15).astype(np.uint16)
        np.bitwise_and.at(alive, places >> 4, ~bits)
        return View(self.shelf, alive, self.live - places.shape[0])

    def is_alive(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For each place (-1: no place) whether it holds a live template."""
        alive: NDArray[np.bool_] = (places >= 0) & (
            (self.alive[places >> 4] >> (places & 15).astype(np.uint16)) & 1 == 1
        )
        return alive

    def only(self, chosen: NDArray[np.uint16]) -> "View":
        """This view restricted to the places whose bits are set."""
        alive = self.alive & chosen
        return View(self.shelf, alive, number_of_bits(alive))


def number_of_bits(words: NDArray[np.uint16]) -> int:
    if hasattr(np, "bitwise_count"):  # numpy 2
        return int(np.bitwise_count(words).sum())
    return int(np.unpackbits(words.view(np.uint8)).sum())


def bits_of(chosen: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """One bit for each place, 16 to a word."""
    return np.packbits(chosen, bitorder="little").view("<u2").astype(np.uint16, copy=False)


def new_shelf(book: CodeBook, capacity: int) -> Shelf:
    """An empty shelf in memory. Pages that nothing is written to cost nothing."""
    groups = -(-capacity // GROUP)
    places = GROUP * groups
    lines = (groups, book.width // 16, 64)
    planes = Planes(
        np.zeros(lines, dtype=np.uint8),
        np.zeros(lines, dtype=np.uint8),
        np.zeros((places, book.width // 2), dtype=np.uint8),
        np.zeros((3, places), dtype=np.uint16),
    )
    rows = np.zeros((places, book.dimension), dtype=np.float16)
    return Shelf(planes, rows, np.zeros(places, dtype=np.uint64), 0, np.empty(0, dtype=np.uint32))


def full_view(shelf: Shelf) -> View:
    """Everything on the shelf alive."""
    chosen = np.zeros(GROUP * shelf.groups, dtype=np.bool_)
    chosen[: shelf.count] = True
    return View(shelf, bits_of(chosen), shelf.count)
