"""The mutable segment: the newest templates, in private memory, searchable at once."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.gallery.codebook import CodeBook
from shared.gallery.scan import Kernel
from shared.gallery.segment import Planes, SegmentView, new_segment

FIRST_CAPACITY = 1024
FULL = 32768
"""Number of templates at which a mutable segment is sealed."""


class MutableSegment:
    """A segment that grows. Only one thread may write at a time; searches use its views."""

    def __init__(
        self, book: CodeBook, kernel: Kernel, threads: int, capacity: int = FIRST_CAPACITY
    ) -> None:
        self._book = book
        self._kernel = kernel
        self._threads = threads
        self._segment = new_segment(book, capacity)
        self._seqs = np.zeros(capacity, dtype=np.uint64)
        self._place_of: dict[int, int] = {}  # live templates
        self.view = SegmentView(self._segment, np.zeros(self._segment.groups, dtype=np.uint16), 0)

    @property
    def room(self) -> int:
        return FULL - self.view.segment.count

    def add(
        self,
        ids: NDArray[np.uint64],
        vectors: NDArray[np.float32] | None,
        rows: NDArray[np.float16] | None,
        seqs: int | NDArray[np.uint64],
    ) -> None:
        """Appends at most `room` new ids with vectors, or with rows in the stored format."""
        first = self.view.segment.count
        last = first + ids.shape[0]
        self._grow(last)
        segment = self._segment
        if rows is not None:
            segment.rows[first:last] = rows
        segment.ids[first:last] = ids
        self._seqs[first:last] = seqs
        self._kernel.encode(self._book, segment, first, vectors, last, self._threads)
        segment.hash_rows(first, last)
        self._place_of.update(zip(ids.tolist(), range(first, last), strict=True))
        alive = np.zeros(segment.groups, dtype=np.uint16)
        alive[: self.view.alive.shape[0]] = self.view.alive
        places = np.arange(first, last)
        np.bitwise_or.at(alive, places >> 4, np.left_shift(1, places & 15).astype(np.uint16))
        self.view = SegmentView(replace(segment, count=last), alive, self.view.live + ids.shape[0])

    def places(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Returns the places of ids, -1 for an id without a live template."""
        return np.array([self._place_of.get(each, -1) for each in ids.tolist()], dtype=np.int64)

    def remove(self, ids: NDArray[np.uint64]) -> int:
        """Marks ids as dead and returns how many were present."""
        places = [place for each in ids.tolist() if (place := self._place_of.pop(each, -1)) >= 0]
        if places:
            self.view = self.view.without(np.array(places, dtype=np.int64))
        return len(places)

    def sealed(self) -> SegmentView:
        """Returns the content as a sealed segment, which is looked up by sorted ids.

        An id may be there twice: dead places sort behind live ones of the same id.
        """
        segment = self.view.segment
        dead = ~self.view.is_alive(np.arange(segment.count))
        order = np.lexsort((dead, segment.ids[: segment.count])).astype(np.uint32)
        seqs = self._seqs[: segment.count].copy()
        return SegmentView(
            replace(segment, order=order, seqs=seqs), self.view.alive, self.view.live
        )

    def _grow(self, count: int) -> None:
        capacity = self._seqs.shape[0]
        if count <= capacity:
            return
        while capacity < count:
            capacity = min(4 * capacity, FULL)
        old, new = self._segment, new_segment(self._book, capacity)
        _copy(old.planes, new.planes, old.groups)
        new.rows[: old.rows.shape[0]] = old.rows
        new.ids[: old.ids.shape[0]] = old.ids
        new.hashes[: old.hashes.shape[0]] = old.hashes
        self._seqs = np.concatenate(
            [self._seqs, np.zeros(capacity - self._seqs.shape[0], dtype=np.uint64)]
        )
        self._segment = new


def _copy(old: Planes, new: Planes, groups: int) -> None:
    new.high[:groups] = old.high
    new.mid[:groups] = old.mid
    new.low[: 16 * groups] = old.low
    new.errors[:, : 16 * groups] = old.errors
