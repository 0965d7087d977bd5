"""Shelves made of others: which are worth merging, and the merge itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shared.gallery.codebook import CodeBook
from shared.gallery.scan import Kernel
from shared.gallery.segment import Shelf, View

_STRETCH = 65536  # rows encoded at a time, so that searches find the workers free in between


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some rows of an array, under their ids."""

    ids: NDArray[np.uint64]  # (n,)
    rows: NDArray[np.float16]  # (m, d)
    places: NDArray[np.int64]  # (n,) rows that are meant


def live_piece(view: View) -> Piece:
    """All that is alive in a view."""
    places = view.live_places()
    return Piece(view.shelf.ids[places], view.shelf.rows, places)


def merged(
    pieces: Sequence[Piece],
    new_shelf: Callable[[int], Shelf],
    book: CodeBook,
    kernel: Kernel,
    threads: int,
) -> Shelf:
    """One shelf of all pieces, sorted by id."""
    ids = np.concatenate([piece.ids for piece in pieces])
    order = np.argsort(ids, kind="stable")
    target = np.empty_like(order)
    target[order] = np.arange(order.shape[0])
    shelf = new_shelf(ids.shape[0])
    shelf.ids[: ids.shape[0]] = ids[order]
    start = 0
    for piece in pieces:
        end = start + piece.ids.shape[0]
        for first in range(start, end, _STRETCH):
            last = min(first + _STRETCH, end)
            shelf.rows[target[first:last]] = piece.rows[piece.places[first - start : last - start]]
        start = end
    for first in range(0, start, _STRETCH):
        kernel.encode(book, shelf, first, None, min(first + _STRETCH, start), threads)
    return replace(shelf, count=start, order=None)


def worth_merging(views: Sequence[View], fresh: int) -> list[View]:
    """Those to merge with `fresh` new rows: no larger than what they join, or a quarter dead.

    Sizes that survive grow geometrically, so a gallery of n templates has some log(n) shelves and
    writes each template about as often.
    """
    chosen = []
    for view in sorted(views, key=lambda view: view.live):
        if view.live <= 2 * fresh or 4 * view.live <= 3 * view.shelf.count:
            chosen.append(view)
            fresh += view.live
    return chosen
