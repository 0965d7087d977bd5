"""The tail: templates that came last, in private memory, searchable at once."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.gallery.codebook import CodeBook
from shared.gallery.scan import Kernel
from shared.gallery.segment import Planes, View, new_shelf

FIRST_CAPACITY = 1024
FULL = 32768
"""Templates after which a tail is closed and a new one begun."""


class Tail:
    """A shelf that grows. Not thread-safe: one writer at a time; searches see its views."""

    def __init__(
        self, book: CodeBook, kernel: Kernel, threads: int, capacity: int = FIRST_CAPACITY
    ) -> None:
        self._book = book
        self._kernel = kernel
        self._threads = threads
        self._shelf = new_shelf(book, capacity)
        self._seqs = np.zeros(capacity, dtype=np.uint64)
        self._place_of: dict[int, int] = {}  # live templates
        self.view = View(self._shelf, np.zeros(self._shelf.groups, dtype=np.uint16), 0)

    @property
    def room(self) -> int:
        return FULL - self.view.shelf.count

    def add(
        self,
        ids: NDArray[np.uint64],
        vectors: NDArray[np.float32] | None,
        rows: NDArray[np.float16] | None,
        seqs: int | NDArray[np.uint64],
    ) -> None:
        """Append up to `room` new ids with their vectors, or with rows that are stored already."""
        first = self.view.shelf.count
        last = first + ids.shape[0]
        self._grow(last)
        shelf = self._shelf
        if rows is not None:
            shelf.rows[first:last] = rows
        shelf.ids[first:last] = ids
        self._seqs[first:last] = seqs
        self._kernel.encode(self._book, shelf, first, vectors, last, self._threads)
        self._place_of.update(zip(ids.tolist(), range(first, last), strict=True))
        alive = np.zeros(shelf.groups, dtype=np.uint16)
        alive[: self.view.alive.shape[0]] = self.view.alive
        places = np.arange(first, last)
        np.bitwise_or.at(alive, places >> 4, np.left_shift(1, places & 15).astype(np.uint16))
        self.view = View(replace(shelf, count=last), alive, self.view.live + ids.shape[0])

    def places(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Places of live templates, -1 for the others."""
        return np.array([self._place_of.get(each, -1) for each in ids.tolist()], dtype=np.int64)

    def remove(self, ids: NDArray[np.uint64]) -> int:
        """Mark these ids dead; answers how many were here."""
        found = [place for each in ids.tolist() if (place := self._place_of.pop(each, -1)) >= 0]
        if found:
            self.view = self.view.without(np.array(found, dtype=np.int64))
        return len(found)

    def closed(self) -> View:
        """What the tail holds, as a shelf of its own that is looked up by sorted ids.

        Dead places sort behind live ones of the same id, for an id may have come twice.
        """
        shelf = self.view.shelf
        dead = ~self.view.is_alive(np.arange(shelf.count))
        order = np.lexsort((dead, shelf.ids[: shelf.count])).astype(np.uint32)
        seqs = self._seqs[: shelf.count].copy()
        return View(replace(shelf, order=order, seqs=seqs), self.view.alive, self.view.live)

    def _grow(self, count: int) -> None:
        capacity = self._seqs.shape[0]
        if count <= capacity:
            return
        while capacity < count:
            capacity = min(4 * capacity, FULL)
        old, new = self._shelf, new_shelf(self._book, capacity)
        _copy(old.planes, new.planes, old.groups)
        new.rows[: old.rows.shape[0]] = old.rows
        new.ids[: old.ids.shape[0]] = old.ids
        self._seqs = np.concatenate(
            [self._seqs, np.zeros(capacity - self._seqs.shape[0], dtype=np.uint64)]
        )
        self._shelf = new


def _copy(old: Planes, new: Planes, groups: int) -> None:
    new.high[:groups] = old.high
    new.mid[:groups] = old.mid
    new.low[: 16 * groups] = old.low
    new.errors[:, : 16 * groups] = old.errors
