"""Filters of searches as bits, kept while they are used: a group is asked for again and again."""

import threading
from collections import deque
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from shared.gallery.scan import Kernel
from shared.gallery.segment import Shelf, View

_KEPT = 16
"""Filters remembered; the one that was used longest ago is forgotten."""
_SMALL = 4096
"""Ids of a filter that is made faster than it is looked for."""

Ids = NDArray[np.uint64]


class _Filter:
    """Ids that a search may answer, and their bits on each shelf that was asked for."""

    def __init__(self, asked: Ids) -> None:
        self.asked = asked
        self.ascending = asked if (asked[1:] >= asked[:-1]).all() else np.sort(asked)
        self.bits: WeakKeyDictionary[Shelf, NDArray[np.uint16]] = WeakKeyDictionary()


class Filters:
    """Thread-safe. Shelves never change below their count, so neither do the bits."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._lock = threading.Lock()
        self._recent: deque[_Filter] = deque(maxlen=_KEPT)

    def restricted(self, views: tuple[View, ...], among: Ids) -> list[View]:
        """The views with only those templates whose ids are in `among`."""
        wanted = self._filter(np.ascontiguousarray(among, dtype=np.uint64).ravel())
        return [view.only(self._bits(wanted, view.shelf)) for view in views if view.live]

    def _filter(self, asked: Ids) -> _Filter:
        if asked.shape[0] < _SMALL:
            return _Filter(asked)
        with self._lock:
            for known in self._recent:
                if np.array_equal(known.asked, asked):
                    self._recent.remove(known)
                    self._recent.append(known)
                    return known
            fresh = _Filter(asked.copy())
            self._recent.append(fresh)
            return fresh

    def _bits(self, wanted: _Filter, shelf: Shelf) -> NDArray[np.uint16]:
        with self._lock:
            bits = wanted.bits.get(shelf)
        if bits is None:
            bits = self._kernel.choose(shelf, wanted.ascending)
            with self._lock:
                wanted.bits[shelf] = bits
        return bits
