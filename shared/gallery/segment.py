"""A segment: templates with their codes, in the layout that the kernel reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.gallery.codebook import CodeBook
from shared.wire.template_hash import Hashes, row_hashes

GROUP = 16
"""Number of templates whose codes are interleaved, so that a scan never sums across lanes."""


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Codes of `16 * groups` places. Layout of high and mid: kernel/flavour.inc."""

    high: NDArray[np.uint8]  # (groups, width / 16, 64): first two bits of each coordinate
    mid: NDArray[np.uint8]  # (groups, width / 16, 64): the next two
    low: NDArray[np.uint8]  # (16 * groups, width / 2): four bits of correction
    errors: NDArray[np.uint16]  # (3, 16 * groups): errors of 2, 4, 8 bits, in 2^-15


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Segment:
    """Templates at places 0 to count - 1; the places after them are free.

    Places below count are never written again, so any number of searches may read them.
    """

    planes: Planes
    rows: NDArray[np.float16]  # (16 * groups, dimension): the templates as stored
    ids: NDArray[np.uint64]  # (16 * groups,)
    hashes: Hashes  # (16 * groups,) of the rows
    count: int
    order: NDArray[np.uint32] | None  # places by ascending id, (0,) if mutable; None: sorted
    seqs: NDArray[np.uint64] | None = None  # (count,) change that added each; None: in a file
    name: str | None = None  # of the segment file; None: private

    @property
    def groups(self) -> int:
        return int(self.planes.high.shape[0])

    def hash_rows(self, first: int, last: int) -> None:
        """Writes the hashes of the rows at places first to last - 1."""
        self.hashes[first:last] = row_hashes(self.rows[first:last])


@dataclass(frozen=True, slots=True, eq=False)
class SegmentView:
    """A segment and its live templates at one moment."""

    segment: Segment
    alive: NDArray[np.uint16]  # (groups,) one bit a template
    live: int  # number of bits set

    def live_places(self) -> NDArray[np.int64]:
        return np.flatnonzero(np.unpackbits(self.alive.view(np.uint8), bitorder="little"))

    def without(self, places: NDArray[np.int64]) -> "SegmentView":
        """Returns this view without these (distinct, live) places."""
        alive = self.alive.copy()
        bits = np.left_shift(1, places & 15).astype(np.uint16)
        np.bitwise_and.at(alive, places >> 4, ~bits)
        return SegmentView(self.segment, alive, self.live - places.shape[0])

    def is_alive(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns for each place whether it has a live template; False for -1."""
        alive: NDArray[np.bool_] = (places >= 0) & (
            (self.alive[places >> 4] >> (places & 15).astype(np.uint16)) & 1 == 1
        )
        return alive

    def only(self, chosen: NDArray[np.uint16]) -> "SegmentView":
        """Returns this view, restricted to the places whose bits are set."""
        alive = self.alive & chosen
        return SegmentView(self.segment, alive, number_of_bits(alive))


def content_of(views: Sequence[SegmentView]) -> tuple[NDArray[np.uint64], Hashes]:
    """Returns the ids (n,) of all live templates, ascending, and the hashes (n,) of their rows."""
    nothing = np.empty(0, np.uint64)  # there may be no view
    live = [(view.segment, view.live_places()) for view in views]
    ids = np.concatenate([nothing, *(segment.ids[places] for segment, places in live)])
    hashes = np.concatenate([nothing, *(segment.hashes[places] for segment, places in live)])
    order = np.argsort(ids)
    return ids[order], hashes[order]


def number_of_bits(words: NDArray[np.uint16]) -> int:
    if hasattr(np, "bitwise_count"):  # numpy 2
        return int(np.bitwise_count(words).sum())
    return int(np.unpackbits(words.view(np.uint8)).sum())


def bits_of(chosen: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Packs one bit for each place, 16 in a word."""
    return np.packbits(chosen, bitorder="little").view("<u2").astype(np.uint16, copy=False)


def new_segment(book: CodeBook, capacity: int) -> Segment:
    """Returns an empty segment in memory. Unused pages take no memory."""
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
    ids, hashes = np.zeros(places, dtype=np.uint64), np.zeros(places, dtype=np.uint64)
    return Segment(planes, rows, ids, hashes, 0, np.empty(0, dtype=np.uint32))


def full_view(segment: Segment) -> SegmentView:
    """Returns a view in which all templates are alive."""
    chosen = np.zeros(GROUP * segment.groups, dtype=np.bool_)
    chosen[: segment.count] = True
    return SegmentView(segment, bits_of(chosen), segment.count)
