"""Selects the kernel: the compiled one for this processor, or numpy without compiled code."""

import itertools
import logging
import os
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigurationError
from shared.gallery.codebook import CodeBook
from shared.gallery.numpy_kernel import NumpyKernel
from shared.gallery.scan import Kernel, Query, Ranked
from shared.gallery.segment import Segment, SegmentView

_log = logging.getLogger(__name__)


class CompiledKernel:
    """The C kernel for one instruction set."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self.name = name
        self._module = module

    def encode(
        self,
        book: CodeBook,
        segment: Segment,
        first: int,
        vectors: NDArray[np.float32] | None,
        last: int,
        threads: int,
    ) -> None:
        self._module.encode(
            self.name, threads, book.packed, vectors, segment.rows, _planes(segment), first, last
        )

    def search(
        self, book: CodeBook, views: Sequence[SegmentView], query: Query, threads: int
    ) -> list[Ranked]:
        starts = [0, *itertools.accumulate(query.limits.tolist())]
        ids = np.empty(starts[-1], dtype=np.uint64)
        similarities = np.empty(starts[-1], dtype=np.float64)
        counts = np.empty(query.limits.shape[0], dtype=np.int64)
        self._module.search(
            self.name,
            threads,
            book.packed,
            [(_planes(v.segment), v.segment.rows, v.segment.ids, v.alive) for v in views],
            query.probes,
            counts.shape[0],
            query.limits,
            query.thresholds,
            ids,
            similarities,
            counts,
        )
        return [
            (ids[start : start + count], similarities[start : start + count])
            for start, count in zip(starts, counts.tolist(), strict=False)
        ]

    def find(self, view: SegmentView, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        places, segment = np.empty(ids.shape[0], dtype=np.int64), view.segment
        self._module.find(
            segment.ids, segment.order, segment.count, view.alive, ids, ids.shape[0], places
        )
        return places

    def choose(self, segment: Segment, among: NDArray[np.uint64]) -> NDArray[np.uint16]:
        order = segment.order
        if order is not None and order.shape[0] != segment.count:  # a mutable segment is not sorted
            order = np.argsort(segment.ids[: segment.count]).astype(np.uint32)
        bits = np.zeros(segment.groups, dtype=np.uint16)
        self._module.choose(segment.ids, order, segment.count, among, among.shape[0], bits)
        return bits

    def bounds(
        self, book: CodeBook, view: SegmentView, probe: NDArray[np.float32], depth: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Kernel.bounds`."""
        estimates = np.empty(view.segment.ids.shape[0], dtype=np.float64)
        margins = np.empty_like(estimates)
        segment = (_planes(view.segment), view.segment.rows, view.segment.ids, view.alive)
        self._module.bounds(self.name, book.packed, segment, probe, depth, estimates, margins)
        return estimates, margins


def _planes(segment: Segment) -> tuple[object, ...]:
    planes = segment.planes
    return segment.groups, planes.high, planes.mid, planes.low, planes.errors


def compiled_kernels() -> list[CompiledKernel]:
    """Returns the kernels that this processor runs, fastest first; none without the extension."""
    try:
        from shared.gallery import _kernel
    except ImportError:
        return []
    return [CompiledKernel(_kernel, name) for name in _kernel.kernels()]


def kernel_named(name: str) -> Kernel:
    """Returns the kernel of this name. Raises ConfigurationError if it does not run here."""
    kernels: list[Kernel] = [*compiled_kernels(), NumpyKernel()]
    for kernel in kernels:
        if kernel.name == name:
            return kernel
    names = ", ".join(kernel.name for kernel in kernels)
    raise ConfigurationError(f"no gallery kernel {name!r} runs here; those that do: {names}")


@cache
def best_kernel() -> Kernel:
    """Returns the fastest kernel that runs here. Logs a warning once if that is numpy."""
    compiled = compiled_kernels()
    if compiled:
        return compiled[0]
    _log.warning(
        "The gallery's compiled kernel is missing: searches are exact but slow; "
        "reinstall where a C compiler is found"
    )
    return NumpyKernel()


def usable_processors() -> int:
    """Returns the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
