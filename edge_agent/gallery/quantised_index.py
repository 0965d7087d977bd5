"""Exact search with quantised templates in memory, and the templates themselves elsewhere.

The index of `shared.gallery` keeps each template (1,024 bytes) beside its code (518 bytes). A small
device has no memory for both, and should hold as few plain templates as possible. So it keeps the
codes, and reads the few templates that the codes cannot decide on from the encrypted store.
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
from shared.gallery.segment import SegmentView, bits_of, new_segment
from shared.wire.template_hash import Hashes

_BLOCK: Final = 4096  # slots: whole groups of 16

Numbers = NDArray[np.uint64]
Fetch = Callable[[Sequence[int]], dict[int, NDArray[np.float16]]]
"""Returns templates by number, without those that no longer exist."""


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Codes of `_BLOCK` slots. All blocks share one buffer for the rows."""

    view: SegmentView
    alive: NDArray[np.bool_]  # (_BLOCK,)

    @property
    def count(self) -> int:
        return self.view.segment.count


class QuantisedIndex:
    """Codes of templates. One thread writes at a time, while others search."""

    def __init__(self, dimension: int, *, kernel: Kernel | None = None) -> None:
        self._book = CodeBook(dimension)
        self._kernel = kernel or best_kernel()
        self._scratch = np.zeros((_BLOCK, dimension), dtype=np.float16)
        self._writing = threading.Lock()
        self._blocks: tuple[_Block, ...] = ()  # searches read it: it is replaced, never changed
        self.removed = 0  # slots of removed templates

    def __len__(self) -> int:
        return sum(int(block.alive.sum()) for block in self._blocks)

    @property
    def dimension(self) -> int:
        return self._book.dimension

    def add(self, numbers: Numbers, rows: NDArray[np.float16]) -> None:
        """Adds templates (n, dimension) with new numbers (n,)."""
        with self._writing:
            while numbers.shape[0]:
                block = self._room()
                first = block.count
                count = min(numbers.shape[0], _BLOCK - first)
                last = first + count
                self._scratch[first:last] = rows[:count]
                segment = block.view.segment
                segment.ids[first:last] = numbers[:count]
                self._kernel.encode(self._book, segment, first, None, last, 1)
                segment.hash_rows(first, last)
                alive = block.alive.copy()
                alive[first:last] = True
                view = replace(block.view, segment=replace(segment, count=last))
                self._blocks = (*self._blocks[:-1], _Block(view, alive))
                numbers, rows = numbers[count:], rows[count:]

    def remove(self, numbers: Numbers) -> None:
        """Removes templates; unknown numbers are ignored."""
        with self._writing:
            self._blocks = tuple(self._without(block, numbers) for block in self._blocks)

    def content(self) -> tuple[Numbers, Hashes]:
        """Returns the numbers (n,) of all templates and the hashes (n,) of their rows."""
        blocks = self._blocks
        nothing = np.empty(0, dtype=np.uint64)
        ids = [block.view.segment.ids[block.alive] for block in blocks]
        hashes = [block.view.segment.hashes[block.alive] for block in blocks]
        return np.concatenate([nothing, *ids]), np.concatenate([nothing, *hashes])

    def search(
        self, probe: NDArray[np.float32], limit: int, threshold: float, fetch: Fetch
    ) -> list[tuple[int, float]]:
        """Returns numbers and similarities of the nearest, best first; exact, as brute force.

        At most `limit` of at least `threshold`. Similarities are computed from the stored templates
        in double precision.
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
        scored = [
            (number, math.fsum((row.astype(np.float64) * wide).tolist()))
            for number, row in fetch(possible).items()
        ]
        ranked = sorted(scored, key=lambda hit: (-hit[1], hit[0]))
        return [hit for hit in ranked if hit[1] >= threshold][:limit]

    def _bounds(
        self, blocks: Sequence[_Block], probe: NDArray[np.float32]
    ) -> list[tuple[Numbers, NDArray[np.float64], NDArray[np.float64]]]:
        """Returns number, least and greatest possible similarity of all templates."""
        bounds = []
        for block in blocks:
            estimates, margins = self._kernel.bounds(self._book, block.view, probe, 2)
            live = np.flatnonzero(block.alive)
            estimates, margins = estimates[live], margins[live]
            bounds.append((block.view.segment.ids[live], estimates - margins, estimates + margins))
        return bounds

    def _room(self) -> _Block:
        """Returns the last block, or a new one where the last is full."""
        if not self._blocks or self._blocks[-1].count == _BLOCK:
            segment = replace(new_segment(self._book, _BLOCK), rows=self._scratch)
            empty = np.zeros(_BLOCK, dtype=np.bool_)
            view = SegmentView(segment, bits_of(empty), 0)
            self._blocks = (*self._blocks, _Block(view, empty))
        return self._blocks[-1]

    def _without(self, block: _Block, numbers: Numbers) -> _Block:
        removed = np.isin(block.view.segment.ids, numbers) & block.alive
        if not removed.any():
            return block
        self.removed += int(removed.sum())
        return _Block(block.view, block.alive & ~removed)
