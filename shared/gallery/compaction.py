"""Compaction: selects segments that are worth merging, and merges them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.gallery.codebook import CodeBook
from shared.gallery.scan import Kernel
from shared.gallery.segment import Segment, SegmentView

MAX_ROWS = 131072
"""Templates of a segment, about: its file has 200 MB. An erasure rewrites one segment."""
_STRETCH = 65536  # rows encoded at a time, so that searches can use the worker threads in between


@dataclass(frozen=True, slots=True, eq=False)
class MergeSource:
    """Rows of an array that a merge takes, and their ids."""

    ids: NDArray[np.uint64]  # (n,)
    rows: NDArray[np.float16]  # (m, d)
    places: NDArray[np.int64]  # (n,) indexes of `rows`


def live_rows(view: SegmentView) -> MergeSource:
    """Returns the live templates of a view."""
    places = view.live_places()
    return MergeSource(view.segment.ids[places], view.segment.rows, places)


def merge(
    sources: Sequence[MergeSource],
    new_segment: Callable[[int], Segment],
    book: CodeBook,
    kernel: Kernel,
    threads: int,
) -> Segment:
    """Returns one segment with the rows of all sources, sorted by id."""
    ids = np.concatenate([source.ids for source in sources])
    order = np.argsort(ids, kind="stable")
    target = np.empty_like(order)
    target[order] = np.arange(order.shape[0])
    segment = new_segment(ids.shape[0])
    segment.ids[: ids.shape[0]] = ids[order]
    start = 0
    for source in sources:
        end = start + source.ids.shape[0]
        for first in range(start, end, _STRETCH):
            last = min(first + _STRETCH, end)
            segment.rows[target[first:last]] = source.rows[
                source.places[first - start : last - start]
            ]
        start = end
    for first in range(0, start, _STRETCH):
        last = min(first + _STRETCH, start)
        kernel.encode(book, segment, first, None, last, threads)
        segment.hash_rows(first, last)
    return replace(segment, count=start, order=None)


def select_for_merge(views: Sequence[SegmentView], fresh: int) -> list[SegmentView]:
    """Returns the segments to merge with `fresh` new rows: small ones, and those a quarter dead.

    The sizes of the others grow geometrically up to `MAX_ROWS`, so a template is written about
    log(MAX_ROWS) times.
    """
    chosen = []
    for view in sorted(views, key=lambda view: view.live):
        small = view.live <= 2 * fresh and fresh + view.live <= MAX_ROWS
        if small or 4 * view.live <= 3 * view.segment.count:
            chosen.append(view)
            fresh += view.live
    return chosen


def in_parts(sources: Sequence[MergeSource]) -> Iterator[list[MergeSource]]:
    """Yields the sources in groups of at most `MAX_ROWS` templates, or of one source."""
    part: list[MergeSource] = []
    for source in sources:
        if part and sum(each.ids.shape[0] for each in (*part, source)) > MAX_ROWS:
            yield part
            part = []
        part.append(source)
    if part:
        yield part
