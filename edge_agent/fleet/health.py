"""The health message: the state of the agent and its machine at one moment."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from importlib.metadata import version
from typing import Final, Protocol

from edge_agent.agent import Agent, CameraThread
from edge_agent.fleet.device import Device
from edge_agent.outbox.outbox import Outbox
from edge_agent.outbox.records import OutboxCounts
from shared.clock import Clock
from shared.errors import Unavailable
from shared.wire.device import CameraHealth, HealthMessage, LedgerDay

_LEDGER_DAYS: Final = 7
_MAX_LEDGER_DAYS: Final = 512
_MAX_CAMERAS: Final = 64


class LedgerDays(Protocol):
    """The part of the ledger that a health message needs."""

    def days(self, since: date | None = None) -> list[LedgerDay]: ...


class FrameRates:
    """Frames a second of each camera since the last measurement. For one thread only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before: dict[str, tuple[float, int, int]] = {}  # time, frames, dropped

    def measure(self, cameras: Sequence[CameraThread]) -> dict[str, tuple[float, int]]:
        """Returns by camera: processed frames a second, and frames dropped, since the last call."""
        now_s = self._clock.monotonic_s()
        rates: dict[str, tuple[float, int]] = {}
        for camera in cameras:
            name = camera.capture.name
            frames, dropped = camera.pipeline.counts.frames, camera.capture.dropped
            before_s, frames_before, dropped_before = self._before.get(
                name, (now_s, frames, dropped)
            )
            passed_s = now_s - before_s
            fps = (frames - frames_before) / passed_s if passed_s > 0 else 0.0
            rates[name] = fps, dropped - dropped_before
            self._before[name] = now_s, frames, dropped
        return rates


class HealthMessages:
    """Makes the health messages of one run. Without an agent, the cameras are not running."""

    def __init__(self, device: Device, model_id: str, agent: Agent | None = None) -> None:
        self._device = device
        self._model_id = model_id
        self._agent = agent
        self._rates = FrameRates(device.clock)

    def start(self) -> None:
        """Frame rates are measured from here on."""
        if self._agent is not None:
            self._rates.measure(self._agent.cameras)

    def message(
        self,
        config_revision: int,
        *,
        reductions: Sequence[str] = (),
        problems: Sequence[str] = (),
    ) -> HealthMessage:
        """`reductions`: the work that is left out because of overload."""
        device, agent = self._device, self._agent
        readings = device.sensors.read()
        counts = None if agent is None else _counts(agent.outbox)
        galleries = None if agent is None else agent.galleries
        return HealthMessage(
            device=device.settings.device,
            at=device.clock.now(),
            version=version("muster")[:40],
            model_id=self._model_id[:80],
            uptime_s=round(device.clock.monotonic_s() - device.started_s, 1),
            temperature_c=readings.temperature_c,
            throttled=readings.throttled,
            load_1m=readings.load_1m,
            processors=max(readings.processors, 1),
            memory_bytes=readings.memory_bytes,
            memory_free_bytes=readings.memory_free_bytes,
            disk_free_bytes=readings.disk_free_bytes,
            clock_offset_s=device.offset.seconds,
            waiting=0 if counts is None else counts.waiting + counts.held,
            dropped=0 if counts is None else counts.dropped,
            gave_up=list(reductions)[:16],
            problems=[problem[:500] for problem in [*problems, *self._problems()]][:16],
            config_revision=config_revision,
            gallery_seq={} if galleries is None else galleries.seq(),
            cameras=self._cameras()[:_MAX_CAMERAS],
            ledger=_recent_days(None if agent is None else agent.ledger, device.clock),
        )

    def _cameras(self) -> list[CameraHealth]:
        if self._agent is None:
            return []
        rates = self._rates.measure(self._agent.cameras)
        return [
            _camera_health(camera, rates[camera.capture.name][0]) for camera in self._agent.cameras
        ]

    def _problems(self) -> Iterator[str]:
        if (problem := self._device.clock_problem) is not None:
            yield problem
        agent = self._agent
        if agent is None:
            return
        if agent.outbox.trouble is not None:
            yield agent.outbox.trouble
        if agent.galleries is not None:
            yield from agent.galleries.problems()
        if agent.delivery is not None and agent.delivery.complaint is not None:
            yield agent.delivery.complaint


def _camera_health(camera: CameraThread, fps: float) -> CameraHealth:
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


def _counts(outbox: Outbox) -> OutboxCounts | None:
    """Returns None while the outbox cannot be read."""
    try:
        return outbox.counts()
    except Unavailable:
        return None


def _recent_days(ledger: LedgerDays | None, clock: Clock) -> list[LedgerDay]:
    """Returns the last week of the ledger, so that a device may be offline for some days."""
    if ledger is None:
        return []
    try:
        days = ledger.days((clock.now() - timedelta(days=_LEDGER_DAYS)).date())
    except Unavailable:  # the disk cannot be written; a later message will have it
        return []
    return days[:_MAX_LEDGER_DAYS]
