"""Which code scans: the compiled kernel for this processor, or numpy where there is none."""

import logging
import os
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigurationError
from shared.gallery.codebook import CodeBook
from shared.gallery.numpy_kernel import PlainKernel
from shared.gallery.scan import Ask, Kernel, Ranked
from shared.gallery.segment import Shelf, View

_log = logging.getLogger(__name__)


class CompiledKernel:
    """The C kernel, in the flavour of one instruction set."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self.name = name
        self._module = module

    def encode(
        self,
        book: CodeBook,
        shelf: Shelf,
        first: int,
        vectors: NDArray[np.float32] | None,
        last: int,
        threads: int,
    ) -> None:
        self._module.encode(
            self.name, threads, book.packed, vectors, shelf.rows, _planes(shelf), first, last
        )

    def search(self, book: CodeBook, views: Sequence[View], ask: Ask, threads: int) -> list[Ranked]:
        starts = np.concatenate([[0], np.cumsum(ask.limits)])
        ids = np.empty(starts[-1], dtype=np.uint64)
        similarities = np.empty(starts[-1], dtype=np.float64)
        counts = np.empty(ask.limits.shape[0], dtype=np.int64)
        self._module.search(
            self.name,
            threads,
            book.packed,
            [(_planes(v.shelf), v.shelf.rows, v.shelf.ids, v.alive) for v in views],
            ask.probes,
            counts.shape[0],
            ask.limits,
            ask.thresholds,
            ids,
            similarities,
            counts,
        )
        return [
            (ids[start : start + count], similarities[start : start + count])
            for start, count in zip(starts[:-1].tolist(), counts.tolist(), strict=True)
        ]

    def find(self, view: View, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        places, shelf = np.empty(ids.shape[0], dtype=np.int64), view.shelf
        self._module.find(
            shelf.ids, shelf.order, shelf.count, view.alive, ids, ids.shape[0], places
        )
        return places

    def choose(self, shelf: Shelf, among: NDArray[np.uint64]) -> NDArray[np.uint16]:
        order = shelf.order
        if order is not None and order.shape[0] != shelf.count:  # a tail is not sorted yet
            order = np.argsort(shelf.ids[: shelf.count]).astype(np.uint32)
        bits = np.zeros(shelf.groups, dtype=np.uint16)
        self._module.choose(shelf.ids, order, shelf.count, among, among.shape[0], bits)
        return bits

    def bounds(
        self, book: CodeBook, view: View, probe: NDArray[np.float32], depth: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Estimates of all places from the planes down to depth 0, 1 or 2, and their margins."""
        estimates = np.empty(view.shelf.ids.shape[0], dtype=np.float64)
        margins = np.empty_like(estimates)
        shelf = (_planes(view.shelf), view.shelf.rows, view.shelf.ids, view.alive)
        self._module.bounds(self.name, book.packed, shelf, probe, depth, estimates, margins)
        return estimates, margins


def _planes(shelf: Shelf) -> tuple[object, ...]:
    planes = shelf.planes
    return shelf.groups, planes.high, planes.mid, planes.low, planes.errors


def compiled_kernels() -> list[CompiledKernel]:
    """Those that this processor runs, fastest first; none where the extension was not built."""
    try:
        from shared.gallery import _kernel
    except ImportError:
        return []
    return [CompiledKernel(_kernel, name) for name in _kernel.kernels()]


def kernel_named(name: str) -> Kernel:
    """The kernel of this name. Raises ConfigurationError when it does not run here."""
    offered: list[Kernel] = [*compiled_kernels(), PlainKernel()]
    for kernel in offered:
        if kernel.name == name:
            return kernel
    names = ", ".join(kernel.name for kernel in offered)
    raise ConfigurationError(f"no gallery kernel {name!r} runs here; those that do: {names}")


@cache
def best_kernel() -> Kernel:
    """The fastest kernel that runs here; says once when it is only numpy."""
    compiled = compiled_kernels()
    if compiled:
        return compiled[0]
    _log.warning(
        "the gallery's compiled kernel is missing: searches are exact but slow; "
        "reinstall where a C compiler is found"
    )
    return PlainKernel()


def usable_processors() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
