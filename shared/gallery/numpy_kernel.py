"""The kernel in numpy: slower than the compiled ones, with the same codes and results.

It runs where no compiler was found, and the compiled kernels are tested against it. It writes codes
for other kernels; its own searches read the rows.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.gallery.codebook import REACH, CodeBook
from shared.gallery.scan import Query, Ranked
from shared.gallery.segment import GROUP, Segment, SegmentView, bits_of

_CHUNK = 2048  # rows widened at a time: 4 MiB at 512 values
_ERROR_UNIT = 2.0**-15
_ROTATION_ERROR = 2.0**-18


class NumpyKernel:
    """Everything in numpy."""

    name = "numpy"

    def encode(
        self,
        book: CodeBook,
        segment: Segment,
        first: int,
        vectors: NDArray[np.float32] | None,
        last: int,
        threads: int,
    ) -> None:
        if vectors is not None:
            segment.rows[first:last] = vectors
        for start in range(first, last, _CHUNK):
            _encode(book, segment, np.arange(start, min(start + _CHUNK, last)))

    def search(
        self, book: CodeBook, views: Sequence[SegmentView], query: Query, threads: int
    ) -> list[Ranked]:
        best = [
            _Best(*each) for each in zip(query.probes, query.limits, query.thresholds, strict=True)
        ]
        halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
        for view in views:
            places = view.live_places()
            for start in range(0, places.shape[0], _CHUNK):
                some = places[start : start + _CHUNK]
                rows = view.segment.rows[_as_slice(some)]
                wide = halves.take(rows.view(np.uint16))  # faster than numpy's own conversion
                estimates = query.probes @ wide.T
                for probe, row in zip(best, estimates, strict=True):
                    probe.offer(view.segment.ids[some], rows, row)
        return [probe.ranked() for probe in best]

    def find(self, view: SegmentView, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        segment = view.segment
        known = segment.ids[: segment.count]
        rank = np.searchsorted(known, ids, sorter=segment.order).clip(max=segment.count - 1)
        places = (rank if segment.order is None else segment.order[rank]).astype(np.int64)
        places[known[places] != ids] = -1
        return np.where(view.is_alive(places), places, -1)

    def choose(self, segment: Segment, among: NDArray[np.uint64]) -> NDArray[np.uint16]:
        chosen = np.zeros(GROUP * segment.groups, dtype=np.bool_)
        if among.shape[0]:
            ids = segment.ids[: segment.count]
            nearest = np.searchsorted(among, ids).clip(max=among.shape[0] - 1)
            chosen[: segment.count] = among[nearest] == ids
        return bits_of(chosen)

    def bounds(
        self, book: CodeBook, view: SegmentView, probe: NDArray[np.float32], depth: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        turned = rotate(book, probe[np.newaxis])[0].astype(np.float64)
        length = float(np.linalg.norm(probe.astype(np.float64)))
        reach = float(np.float32(REACH))
        # What is left of the probe by single precision, of the template by its code.
        lost = _ROTATION_ERROR * length
        places = GROUP * view.segment.groups
        estimates = np.empty(places, dtype=np.float64)
        for start in range(0, places, _CHUNK):
            codes = _codes(book, view.segment, np.arange(start, min(start + _CHUNK, places)), depth)
            estimates[start : start + _CHUNK] = codes @ turned * float(np.float32(book.step))
        errors = view.segment.planes.errors[depth].astype(np.float64) * _ERROR_UNIT
        return estimates, (length + lost) * errors + lost * reach + 1e-12


def _as_slice(places: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Ascending places, as a slice where there is no gap between them: nothing is copied then."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == places.shape[0] else places


class _Best:
    """The best candidates of one probe so far."""

    def __init__(self, probe: NDArray[np.float32], limit: np.int64, threshold: float) -> None:
        self._probe = probe.astype(np.float64)
        # A product of n terms in single precision is wrong by at most n * 2^-24 (and a little)
        # times the product of the lengths, in whatever order it is summed.
        length = float(np.linalg.norm(self._probe))
        self._margin = (probe.shape[0] + 8) * 2.0**-23 * length * REACH + 1e-30
        self._limit = int(limit)
        self._threshold = self._floor = float(threshold)
        self._ids = np.empty(0, dtype=np.uint64)
        self._similarities = np.empty(0, dtype=np.float64)

    def offer(
        self, ids: NDArray[np.uint64], rows: NDArray[np.float16], estimates: NDArray[np.float32]
    ) -> None:
        """Take what is among the best, from estimates that are within the margin."""
        floor = self._floor
        if estimates.shape[0] > self._limit:
            kth = np.partition(estimates, -self._limit)[-self._limit]
            floor = max(floor, float(kth) - self._margin)
        chosen = np.flatnonzero(estimates.astype(np.float64) >= floor - self._margin)
        if not chosen.shape[0]:
            return
        similarities = np.concatenate([self._similarities, self._exact(rows[chosen])])
        ids = np.concatenate([self._ids, ids[chosen]])
        order = np.lexsort((ids, -similarities))
        order = order[similarities[order] >= self._threshold][: self._limit]
        self._ids, self._similarities = ids[order], similarities[order]
        if order.shape[0] == self._limit:
            self._floor = float(self._similarities[-1])

    def _exact(self, rows: NDArray[np.float16]) -> NDArray[np.float64]:
        # Each product of a float16 and a float32 is exact in double precision.
        products = rows.astype(np.float64) * self._probe
        return np.array([math.fsum(row) for row in products.tolist()])

    def ranked(self) -> Ranked:
        return self._ids, self._similarities


def _encode(book: CodeBook, segment: Segment, places: NDArray[np.int64]) -> None:
    rotated = rotate(book, segment.rows[places].astype(np.float32))
    step = np.float32(book.step)
    scaled = np.clip(rotated * (np.float32(1) / step), book.least, book.most)
    codes = np.rint(scaled).astype(np.int32)
    index = np.searchsorted(book.bounds[1:].astype(np.int32), codes, side="right")
    levels = book.levels16.astype(np.int32)[index]
    coarse = book.levels4.astype(np.int32)[index >> 2]
    group, lane = places >> 4, places & 15
    # (n, line, j, byte): two bits each, four of them to a byte
    split = index.reshape(places.shape[0], -1, 4, 4)
    shift = 2 * np.arange(4)[:, None]
    for plane, bits in ((segment.planes.high, split >> 2), (segment.planes.mid, split & 3)):
        lanes = plane.reshape(plane.shape[0], -1, GROUP, 4)
        lanes[group, :, lane] = (bits << shift).sum(axis=2)
    nibbles = codes - levels + 8
    half = book.width // 2
    segment.planes.low[places] = nibbles[:, :half] | nibbles[:, half:] << 4
    for depth, kept in enumerate((coarse, levels, codes)):
        rest = rotated - step * kept.astype(np.float32)
        segment.planes.errors[depth][places] = _error_units(book, rest)


def _codes(
    book: CodeBook, segment: Segment, places: NDArray[np.int64], depth: int
) -> NDArray[np.float64]:
    """The codes (n, width) of these places, as `_encode` wrote them, down to a depth."""
    shift = 2 * np.arange(4)[:, None]

    def crumbs(plane: NDArray[np.uint8]) -> NDArray[np.intp]:
        lanes = plane.reshape(plane.shape[0], -1, GROUP, 4)[places >> 4, :, places & 15]
        split = (lanes[:, :, None, :] >> shift) & 3
        return split.reshape(places.shape[0], -1).astype(np.intp)

    index = crumbs(segment.planes.high)
    if depth == 0:
        coarse: NDArray[np.float64] = book.levels4.astype(np.float64)[index]
        return coarse
    levels: NDArray[np.float64] = book.levels16.astype(np.float64)[
        index << 2 | crumbs(segment.planes.mid)
    ]
    if depth == 1:
        return levels
    low = segment.planes.low[places]
    levels += np.concatenate([low & 15, low >> 4], axis=1).astype(np.float64) - 8
    return levels


def _error_units(book: CodeBook, rest: NDArray[np.float32]) -> NDArray[np.uint16]:
    # Summed by coordinate in single precision, in the kernel's order: equal bit for bit.
    order = np.arange(book.width).reshape(-1, 4, 4).swapaxes(1, 2).ravel()
    squares = np.add.accumulate((rest * rest)[:, order], axis=1)[:, -1]
    error = np.sqrt(squares.astype(np.float64)) * (1 + book.width * 2.0**-23) + 2.0**-22
    units = np.ceil((error + _ROTATION_ERROR * float(np.float32(REACH))) / _ERROR_UNIT)
    return np.minimum(units, 65535).astype(np.uint16)


def rotate(book: CodeBook, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (n, dimension) rotated to (n, width): two rounds of signs and Hadamard transforms."""
    lanes = np.zeros((book.width, rows.shape[0]), dtype=np.float32)
    lanes[: book.dimension] = rows.T
    span = 1 << (book.width.bit_length() - 1)
    for signs in book.signs.astype(np.float32):
        lanes *= signs[:, None]
        _hadamard(lanes[:span])
        if span < book.width:
            _hadamard(lanes[-span:])
    return lanes.T.copy()


def _hadamard(lanes: NDArray[np.float32]) -> None:
    """The orthogonal Hadamard transform of each column, in place."""
    span = lanes.shape[0]
    stride = 1
    while stride < span:
        pairs = lanes.reshape(span // (2 * stride), 2, stride, -1)
        first, second = pairs[:, 0].copy(), pairs[:, 1].copy()
        pairs[:, 0], pairs[:, 1] = first + second, first - second
        stride *= 2
    lanes *= np.float32(1 / math.sqrt(span))
