"""How long the stages take: cheap to collect, medians and 95th percentiles on request."""

import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_KEPT = 4096


@dataclass(slots=True)
class _Ring:
    """The newest durations of one stage in milliseconds; older ones are overwritten."""

    durations: "array[float]" = field(default_factory=lambda: array("f"))
    count: int = 0
    total_ms: float = 0.0

    def add(self, duration_ms: float) -> None:
        if len(self.durations) < _KEPT:
            self.durations.append(duration_ms)
        else:
            self.durations[self.count % _KEPT] = duration_ms
        self.count += 1
        self.total_ms += duration_ms


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage: milliseconds, and how often it ran in all."""

    median: float  # of the newest 4,096 runs, as p95
    p95: float
    mean: float  # of all runs
    count: int


class StageTimes:
    """Durations by stage. One thread writes; about a microsecond a measurement."""

    def __init__(self) -> None:
        self._rings: dict[str, _Ring] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter_ns()
        try:
            yield
        finally:
            self.add(stage, (time.perf_counter_ns() - begin) / 1e6)

    def add(self, stage: str, duration_ms: float) -> None:
        ring = self._rings.get(stage)
        if ring is None:
            ring = self._rings[stage] = _Ring()
        ring.add(duration_ms)

    def absorb(self, other: "StageTimes") -> None:
        """Adds what another has measured; it may be of a thread that has ended."""
        for stage, ring in other._rings.items():
            mine = self._rings.setdefault(stage, _Ring())
            mine.durations.extend(ring.durations)
            mine.count += ring.count
            mine.total_ms += ring.total_ms

    def summary(self) -> dict[str, StageTime]:
        """All stages in the order in which they first ran."""
        return {stage: _summary(ring) for stage, ring in self._rings.items()}


def _summary(ring: _Ring) -> StageTime:
    ordered = sorted(ring.durations)
    last = len(ordered) - 1
    return StageTime(
        median=round(ordered[last // 2], 3),
        p95=round(ordered[round(last * 0.95)], 3),
        mean=round(ring.total_ms / ring.count, 3),
        count=ring.count,
    )
