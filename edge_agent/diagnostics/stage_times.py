"""Measures how long the stages of a pipeline take, for the summary of a run."""

import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

from edge_agent.vision.pipeline import Faces, Pipeline

_KEPT: Final = 4096
_FRAME: Final = "frame"
_STAGES: Final = {  # by the method of the models
    "detect": "detect",
    "locate": "locate",
    "align": "align",
    "assess": "assess",
    "head_poses": "pose",
    "liveness": "liveness",
    "embed": "embed",
}
_MODEL_STAGES: Final = ("detect", "locate", "pose", "liveness", "occlusion", "embed")


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
    """One stage: durations in milliseconds, and how often it ran."""

    median: float  # of the newest 4,096 runs, as p95
    p95: float
    mean: float  # of all runs
    count: int


class StageTimes:
    """Durations by stage. One thread writes; a measurement costs about a microsecond."""

    def __init__(self) -> None:
        self._rings: dict[str, _Ring] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Measures the code inside the `with` block, also where it raises an error."""
        begin = time.perf_counter_ns()
        try:
            yield
        finally:
            self.add(stage, (time.perf_counter_ns() - begin) / 1e6)

    def add(self, stage: str, duration_ms: float) -> None:
        """Adds one run of a stage."""
        self._rings.setdefault(stage, _Ring()).add(duration_ms)

    def summary(self) -> dict[str, StageTime]:
        """All stages in the order in which they first ran."""
        return {stage: _summary(ring) for stage, ring in self._rings.items()}

    def overhead(self) -> float | None:
        """The time of frames over the time of the models within them; 1 is no overhead."""
        models_ms = sum(
            ring.total_ms for stage, ring in self._rings.items() if stage in _MODEL_STAGES
        )
        return round(self._rings[_FRAME].total_ms / models_ms, 3) if models_ms else None


def timed_models(models: Faces, times: StageTimes) -> Faces:
    """The same models, with every call measured."""
    return cast(Faces, _TimedModels(models, times))


def time_frames(pipeline: Pipeline, times: StageTimes) -> None:
    """Measures every frame of a pipeline from now on."""
    step = pipeline.step

    def timed_step(*arguments: Any) -> None:
        with times.measure(_FRAME):
            step(*arguments)

    pipeline.step = timed_step  # type: ignore[assignment, method-assign]


class _TimedModels:
    def __init__(self, models: Faces, times: StageTimes) -> None:
        self._models = models
        self._times = times

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._models, name)
        if name not in _STAGES:
            return method

        def timed(*arguments: Any, **options: Any) -> Any:
            stage = "occlusion" if options.get("occlusion") else _STAGES[name]
            with self._times.measure(stage):
                return method(*arguments, **options)

        return timed


def _summary(ring: _Ring) -> StageTime:
    ordered = sorted(ring.durations)
    last = len(ordered) - 1
    return StageTime(
        median=round(ordered[last // 2], 3),
        p95=round(ordered[round(last * 0.95)], 3),
        mean=round(ring.total_ms / ring.count, 3),
        count=ring.count,
    )
