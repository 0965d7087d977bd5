"""Filters of searches by id, as bit sets. They are cached: searches of a group repeat them."""

import threading
from collections import deque
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from shared.gallery.scan import Kernel
from shared.gallery.segment import Segment, SegmentView

_KEPT = 16
"""Size of the cache; the least recently used filter is removed first."""
_SMALL = 4096
"""Filters with fewer ids are not cached: making them is faster than a look-up."""

Ids = NDArray[np.uint64]


class _Filter:
    """The ids that a search may return, and their bits in the segments searched so far."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.ascending = ids if (ids[1:] >= ids[:-1]).all() else np.sort(ids)
        self.bits: WeakKeyDictionary[Segment, NDArray[np.uint16]] = WeakKeyDictionary()


class IdFilters:
    """A cache of filters. Thread-safe. Segments never change below `count`, so bits stay valid."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._lock = threading.Lock()
        self._recent: deque[_Filter] = deque(maxlen=_KEPT)

    def filtered(self, views: tuple[SegmentView, ...], among: Ids) -> list[SegmentView]:
        """Returns the views, restricted to the templates whose ids are in `among`."""
        id_filter = self._filter(np.ascontiguousarray(among, dtype=np.uint64).ravel())
        return [view.only(self._bits(id_filter, view.segment)) for view in views if view.live]

    def _filter(self, ids: Ids) -> _Filter:
        if ids.shape[0] < _SMALL:
            return _Filter(ids)
        with self._lock:
            for known in self._recent:
                if np.array_equal(known.ids, ids):
                    self._recent.remove(known)
                    self._recent.append(known)
                    return known
            fresh = _Filter(ids.copy())
            self._recent.append(fresh)
            return fresh

    def _bits(self, id_filter: _Filter, segment: Segment) -> NDArray[np.uint16]:
        with self._lock:
            bits = id_filter.bits.get(segment)
        if bits is None:
            bits = self._kernel.choose(segment, id_filter.ascending)
            with self._lock:
                id_filter.bits[segment] = bits
        return bits
