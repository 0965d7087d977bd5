"""The health message: what the agent and its machine look like at one moment."""

from collections.abc import Sequence
from datetime import date, timedelta
from importlib.metadata import version
from typing import Final, Protocol

from edge_agent.agent import CameraThread
from edge_agent.fleet.hardware import Readings
from edge_agent.outbox.outbox import OutboxCounts
from shared.clock import Clock
from shared.errors import Unavailable
from shared.wire.device import CameraHealth, HealthMessage, LedgerDay

_LEDGER_DAYS: Final = 7
_MOST_LEDGER: Final = 512
_MOST_CAMERAS: Final = 64


class Days(Protocol):
    """What is asked of the ledger."""

    def days(self, since: date | None = None) -> list[LedgerDay]: ...


class FrameRates:
    """Frames a second of each camera since the last look. One thread uses it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before: dict[str, tuple[float, int, int]] = {}  # when, frames, dropped

    def look(self, cameras: Sequence[CameraThread]) -> dict[str, tuple[float, int]]:
        """By camera: frames a second that were worked on, and frames dropped, since the last."""
        now_s = self._clock.monotonic_s()
        seen: dict[str, tuple[float, int]] = {}
        for camera in cameras:
            name = camera.capture.name
            frames, dropped = camera.pipeline.counts.frames, camera.capture.dropped
            when_s, frames_before, dropped_before = self._before.get(name, (now_s, frames, dropped))
            passed_s = now_s - when_s
            fps = (frames - frames_before) / passed_s if passed_s > 0 else 0.0
            seen[name] = fps, dropped - dropped_before
            self._before[name] = now_s, frames, dropped
        return seen


def camera_health(camera: CameraThread, fps: float) -> CameraHealth:
    """One camera as its thread and its capture show it."""
    error = camera.capture.error if camera.failure is None else str(camera.failure)
    return CameraHealth(
        camera=camera.capture.name,
        state=camera.capture.state,
        fps=round(max(fps, 0.0), 2),
        frames=camera.pipeline.counts.frames,
        dropped=camera.capture.dropped,
        last_frame_at=camera.capture.last_frame_at,
        in_view=camera.pipeline.in_view,
        error=None if error is None else error[:500],
    )


def health_message(
    *,
    device: str,
    clock: Clock,
    uptime_s: float,
    model_id: str,
    readings: Readings,
    outbox: OutboxCounts | None,
    clock_offset_s: float | None,
    gave_up: Sequence[str],
    problems: Sequence[str],
    config_revision: int,
    gallery_seq: dict[str, int],
    cameras: Sequence[CameraHealth],
    ledger: Sequence[LedgerDay],
) -> HealthMessage:
    """All of it in the words of the wire contract."""
    return HealthMessage(
        device=device,
        at=clock.now(),
        version=version("muster")[:40],
        model_id=model_id[:80],
        uptime_s=round(uptime_s, 1),
        temperature_c=readings.temperature_c,
        throttled=readings.throttled,
        load_1m=readings.load_1m,
        processors=max(readings.processors, 1),
        memory_bytes=readings.memory_bytes,
        memory_free_bytes=readings.memory_free_bytes,
        disk_free_bytes=readings.disk_free_bytes,
        clock_offset_s=clock_offset_s,
        waiting=0 if outbox is None else outbox.waiting + outbox.held,
        dropped=0 if outbox is None else outbox.dropped,
        gave_up=list(gave_up)[:16],
        problems=[one[:500] for one in problems][:16],
        config_revision=config_revision,
        gallery_seq=gallery_seq,
        cameras=list(cameras)[:_MOST_CAMERAS],
        ledger=list(ledger)[:_MOST_LEDGER],
    )


def recent_days(ledger: Days | None, clock: Clock) -> list[LedgerDay]:
    """The last week of the ledger: what a box that was away for some days still has to tell."""
    if ledger is None:
        return []
    try:
        return ledger.days((clock.now() - timedelta(days=_LEDGER_DAYS)).date())
    except Unavailable:  # the disk takes nothing; another message will bring it
        return []
