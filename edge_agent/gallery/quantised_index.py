"""Codes of templates in memory, half the room of the templates: exact search over rows elsewhere.

The engine of `shared.gallery` keeps each row (1,024 bytes) beside its code (518 bytes). A box has
no room for both, and should not hold more of people's faces in the open than it must. So it keeps
the codes; the few rows that they cannot decide about are fetched from the encrypted store.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.gallery.codebook import CodeBook
from shared.gallery.kernels import best_kernel
from shared.gallery.scan import Kernel
from shared.gallery.segment import View, bits_of, new_shelf

_BLOCK: Final = 4096  # places: whole groups of 16

Numbers = NDArray[np.uint64]
Fetch = Callable[[Sequence[int]], dict[int, NDArray[np.float16]]]
"""Rows of templates by number; those that are gone are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Codes of `_BLOCK` places. The shelf's rows are scratch paper that all blocks share."""

    view: View
    alive: NDArray[np.bool_]  # (_BLOCK,)

    @property
    def count(self) -> int:
        return self.view.shelf.count


class Codes:
    """Templates by their codes. One writer at a time; searches go on meanwhile."""

    def __init__(self, dimension: int, *, kernel: Kernel | None = None) -> None:
        self._book = CodeBook(dimension)
        self._kernel = kernel or best_kernel()
        self._scratch = np.zeros((_BLOCK, dimension), dtype=np.float16)
        self._writing = threading.Lock()
        self._blocks: tuple[_Block, ...] = ()  # what searches read: replaced, never changed
        self.dead = 0  # places that hold nobody any more

    def __len__(self) -> int:
        return sum(int(block.alive.sum()) for block in self._blocks)

    @property
    def dimension(self) -> int:
        return self._book.dimension

    def add(self, numbers: Numbers, rows: NDArray[np.float16]) -> None:
        """Templates (n, dimension) under numbers (n,) that are not there."""
        with self._writing:
            while numbers.shape[0]:
                block = self._room()
                first = block.count
                some = min(numbers.shape[0], _BLOCK - first)
                last = first + some
                self._scratch[first:last] = rows[:some]
                shelf = block.view.shelf
                shelf.ids[first:last] = numbers[:some]
                self._kernel.encode(self._book, shelf, first, None, last, 1)
                alive = block.alive.copy()
                alive[first:last] = True
                view = replace(block.view, shelf=replace(shelf, count=last))
                self._blocks = (*self._blocks[:-1], _Block(view, alive))
                numbers, rows = numbers[some:], rows[some:]

    def remove(self, numbers: Numbers) -> None:
        """Forget these; those that are not there are ignored."""
        with self._writing:
            self._blocks = tuple(self._less(block, numbers) for block in self._blocks)

    def search(
        self, probe: NDArray[np.float32], limit: int, threshold: float, fetch: Fetch
    ) -> list[tuple[int, float]]:
        """Numbers and similarities of the nearest, best first: the list of a brute-force search.

        At most `limit` of at least `threshold`. Similarities are of the rows as stored, computed in
        double precision.
        """
        blocks = [block for block in self._blocks if block.count]
        if not blocks:
            return []
        bounds = self._bounds(blocks, probe)
        numbers, low, high = (np.concatenate(column) for column in zip(*bounds, strict=True))
        if not numbers.shape[0]:
            return []
        floor = threshold
        if numbers.shape[0] > limit:
            floor = max(floor, float(np.partition(low, -limit)[-limit]))
        possible = numbers[high >= floor].tolist()
        wide = probe.astype(np.float64)
        found = [
            (number, math.fsum((row.astype(np.float64) * wide).tolist()))
            for number, row in fetch(possible).items()
        ]
        ranked = sorted(found, key=lambda one: (-one[1], one[0]))
        return [one for one in ranked if one[1] >= threshold][:limit]

    def _bounds(
        self, blocks: Sequence[_Block], probe: NDArray[np.float32]
    ) -> list[tuple[Numbers, NDArray[np.float64], NDArray[np.float64]]]:
        """Number, least and greatest possible similarity of all that is alive."""
        answer = []
        for block in blocks:
            estimates, margins = self._kernel.bounds(self._book, block.view, probe, 2)
            live = np.flatnonzero(block.alive)
            estimates, margins = estimates[live], margins[live]
            answer.append((block.view.shelf.ids[live], estimates - margins, estimates + margins))
        return answer

    def _room(self) -> _Block:
        """The last block, or a new one where that is full."""
        if not self._blocks or self._blocks[-1].count == _BLOCK:
            shelf = replace(new_shelf(self._book, _BLOCK), rows=self._scratch)
            nobody = np.zeros(_BLOCK, dtype=np.bool_)
            view = View(shelf, bits_of(nobody), 0)
            self._blocks = (*self._blocks, _Block(view, nobody))
        return self._blocks[-1]

    def _less(self, block: _Block, numbers: Numbers) -> _Block:
        gone = np.isin(block.view.shelf.ids, numbers) & block.alive
        if not gone.any():
            return block
        self.dead += int(gone.sum())
        return _Block(block.view, block.alive & ~gone)
