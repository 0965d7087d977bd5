"""The interface of all kernels: their queries, results and methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.gallery.codebook import CodeBook
from shared.gallery.segment import Segment, SegmentView


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """The probes of one scan, each with its own limit and threshold."""

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
        segment: Segment,
        first: int,
        vectors: NDArray[np.float32] | None,
        last: int,
        threads: int,
    ) -> None:
        """Writes codes to places first to last - 1, and rows too if there are `vectors`."""
        ...

    def search(
        self, book: CodeBook, views: Sequence[SegmentView], query: Query, threads: int
    ) -> list[Ranked]:
        """Returns the best live templates of each probe, exactly."""
        ...

    def find(self, view: SegmentView, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Returns the place of each id in a sealed segment, -1 for ids that are not alive there."""
        ...

    def choose(self, segment: Segment, among: NDArray[np.uint64]) -> NDArray[np.uint16]:
        """Returns bits of all places, also dead ones, whose ids are in `among` (ascending)."""
        ...

    def bounds(
        self, book: CodeBook, view: SegmentView, probe: NDArray[np.float32], depth: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns estimates of the similarity to every place, also dead ones, and their margins.

        They use the planes up to depth 0, 1 or 2. The true similarity is within the margin.
        """
        ...
