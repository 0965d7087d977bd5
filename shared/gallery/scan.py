"""What a scan is asked, what it answers, and who scans: the contract of all kernels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.gallery.codebook import CodeBook
from shared.gallery.segment import Shelf, View


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """Probes of one scan, each with its own limit and threshold."""

    probes: NDArray[np.float32]  # (n, d)
    limits: NDArray[np.int64]  # (n,) at least 1
    thresholds: NDArray[np.float64]  # (n,)


Ranked = tuple[NDArray[np.uint64], NDArray[np.float64]]
"""Ids and similarities of one probe, best first, ties by id."""


class Kernel(Protocol):
    """Encodes and scans. Equal inputs give equal results with every implementation."""

    @property
    def name(self) -> str: ...

    def encode(
        self,
        book: CodeBook,
        shelf: Shelf,
        first: int,
        vectors: NDArray[np.float32] | None,
        last: int,
        threads: int,
    ) -> None:
        """Fill places first to last - 1: rows from the vectors (None: they are there), codes."""
        ...

    def search(self, book: CodeBook, views: Sequence[View], ask: Ask, threads: int) -> list[Ranked]:
        """For each probe the best live templates, exactly."""
        ...

    def find(self, view: View, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The place of each id on a sealed shelf, -1 for those that are not alive there."""
        ...

    def choose(self, shelf: Shelf, among: NDArray[np.uint64]) -> NDArray[np.uint16]:
        """Bits of the places (dead ones too) whose ids are in `among`, which is ascending."""
        ...

    def bounds(
        self, book: CodeBook, view: View, probe: NDArray[np.float32], depth: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What the planes down to depth 0, 1 or 2 say of every place, dead ones too.

        Estimates of the similarity, and how far from them the truth can be.
        """
        ...
