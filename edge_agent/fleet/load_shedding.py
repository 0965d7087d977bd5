"""Load shedding: a device that is too hot or too slow does less, step by step."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from edge_agent.agent import CameraThread
from edge_agent.config.fleet import FleetSettings
from edge_agent.fleet.device import Device
from edge_agent.fleet.health import FrameRates
from edge_agent.vision.load_profile import LoadProfile
from shared.clock import Clock

log = logging.getLogger(__name__)

_STEPS: Final = (
    LoadProfile(),
    LoadProfile(detect_every=2),
    LoadProfile(detect_every=4, closer_looks=False),
    LoadProfile(detect_every=4, closer_looks=False, occlusion=False, liveness=False),
    LoadProfile(detect_every=2, max_fps=5.0, closer_looks=False, occlusion=False, liveness=False),
    LoadProfile(max_fps=1.0, closer_looks=False, occlusion=False, liveness=False),
)
_STEP_EFFECT_S: Final = 10.0  # until a step down has an effect; the next step waits for it
_MIN_OVERLOAD_S: Final = 5.0  # a camera that comes back is slow for a moment
_NORMAL_S: Final = 60.0  # of normal load before a step up
_MAX_NORMAL_S: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Load:
    """Heat, and the processed frames of the cameras."""

    temperature_c: float | None
    throttled: bool | None
    slowest_fps: float | None
    """Frames a second of the slowest live camera, among those that drop frames and were running
    at this measurement and at the one before."""


class LoadShedder:
    """Chooses a load profile: one step down under overload, one step up after normal load.

    Between `cool_c` and `hot_c` nothing changes. After a step up that causes overload again, the
    next step up needs twice the time of normal load, up to half an hour, so that a device at its
    limit does not oscillate. Where faces that seem not to be live are refused, liveness is never
    left out: a person who can heat the device must not get past it. For one thread only.
    """

    def __init__(self, settings: FleetSettings, clock: Clock, *, keep_liveness: bool) -> None:
        self._settings = settings
        self._clock = clock
        self._keep_liveness = keep_liveness
        self._step = 0
        self._changed_s = clock.monotonic_s()
        self._normal_since_s: float | None = None
        self._overload_since_s: float | None = None
        self._required_normal_s = _NORMAL_S
        self._stepped_up = False

    @property
    def load_profile(self) -> LoadProfile:
        profile = _STEPS[self._step]
        return replace(profile, liveness=True) if self._keep_liveness else profile

    def update(self, load: Load) -> bool:
        """Takes one measurement, about once a second; returns whether `load_profile` changed."""
        now_s = self._clock.monotonic_s()
        before = self._step
        overload = self._is_overload(load)
        if not overload:
            self._overload_since_s = None
        elif self._overload_since_s is None:
            self._overload_since_s = now_s
        if overload:
            self._normal_since_s = None
            if self._may_step_down(now_s):
                self._step += 1
                if self._stepped_up:
                    self._required_normal_s = min(2 * self._required_normal_s, _MAX_NORMAL_S)
                    self._stepped_up = False
        elif self._step and self._is_cool(load):
            if self._normal_since_s is None:
                self._normal_since_s = now_s
            if now_s - self._normal_since_s >= self._required_normal_s:
                self._step -= 1
                self._normal_since_s = now_s
                self._stepped_up = True
        else:
            self._normal_since_s = None
        if self._step == before:
            return False
        self._changed_s = now_s
        self._log_change(before, load)
        return True

    def _may_step_down(self, now_s: float) -> bool:
        since_s = self._overload_since_s
        lasts = since_s is not None and now_s - since_s >= _MIN_OVERLOAD_S
        return lasts and now_s - self._changed_s >= _STEP_EFFECT_S and self._step + 1 < len(_STEPS)

    def _is_overload(self, load: Load) -> bool:
        hot = load.temperature_c is not None and load.temperature_c >= self._settings.hot_c
        fps = load.slowest_fps
        # The profile's own limit of the frame rate is no overload.
        min_fps = min(self._settings.min_fps, (self.load_profile.max_fps or 1e9) / 2)
        return hot or bool(load.throttled) or (fps is not None and fps < min_fps)

    def _is_cool(self, load: Load) -> bool:
        return load.temperature_c is None or load.temperature_c <= self._settings.cool_c

    def _log_change(self, before: int, load: Load) -> None:
        profile = _as_text(self.load_profile)
        degrees = "" if load.temperature_c is None else f" at {load.temperature_c:.0f} °C"
        if self._step > before:
            log.warning("Reduced the load of this box%s: %s", degrees, profile)
        else:
            log.info("Raised the load of this box again%s: %s", degrees, profile)


class LoadControl:
    """Measures the load of one run, and limits its cameras. For one thread only."""

    def __init__(self, device: Device, cameras: Sequence[CameraThread]) -> None:
        self._sensors = device.sensors
        self._cameras = cameras
        self._rates = FrameRates(device.clock)
        self._running: set[str] = set()  # cameras that gave pictures at the last measurement
        settings = device.settings
        self._shedder = LoadShedder(
            settings.fleet, device.clock, keep_liveness=settings.liveness.policy == "refuse"
        )

    @property
    def reductions(self) -> list[str]:
        return self._shedder.load_profile.reductions

    def start(self) -> None:
        """Frame rates are measured from here on."""
        self._rates.measure(self._cameras)

    def step(self) -> None:
        rates = self._rates.measure(self._cameras)
        running = {
            camera.capture.name for camera in self._cameras if camera.capture.state == "running"
        }
        steady, self._running = running & self._running, running
        slow = [fps for name, (fps, dropped) in rates.items() if dropped > 0 and name in steady]
        readings = self._sensors.read()
        load = Load(readings.temperature_c, readings.throttled, min(slow, default=None))
        if self._shedder.update(load):
            for camera in self._cameras:
                camera.limit(self._shedder.load_profile)


def _as_text(profile: LoadProfile) -> str:
    """Describes the reductions for people."""
    texts = []
    if profile.detect_every > 1:
        texts.append(f"faces are searched in one frame of {profile.detect_every}")
    if profile.max_fps is not None:
        texts.append(f"{profile.max_fps:g} frames a second")
    kept = {
        "closer looks": profile.closer_looks,
        "occlusion": profile.occlusion,
        "liveness": profile.liveness,
    }
    without = " or ".join(name for name, is_kept in kept.items() if not is_kept)
    if without:
        texts.append(f"no {without}")
    return ", ".join(texts) or "everything as configured"
