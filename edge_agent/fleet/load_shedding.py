"""Shedding load: what a box does without while it is too hot or cannot keep up, step by step."""

import logging
from dataclasses import dataclass, replace
from typing import Final

from edge_agent.config.fleet import FleetSettings
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
_WORSE_S: Final = 10.0  # a step down takes so long to show; the next waits for it
_SURE_S: Final = (
    5.0  # strain must last for so long: a camera that comes back is behind for a moment
)
_CALM_S: Final = 60.0  # all must be well for so long before a step back
_LONGEST_CALM_S: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Strain:
    """What decides: heat, and cameras that cannot be kept up with."""

    temperature_c: float | None
    throttled: bool | None
    slowest_fps: float | None
    """Frames a second of the live camera that is worst off, among those that drop frames and gave
    pictures without an outage since the last look."""


class Shedder:
    """Goes down one step for as long as there is strain, and back one when all has been calm.

    Between `cool_c` and `hot_c` nothing changes. A step back that brings the strain on again
    doubles the calm that the next one needs, up to half an hour, so that a box at its limit does
    not swing to and fro. Where faces that seem not to be live are refused, liveness is never
    given up: who can heat a box must not get past it. One thread uses it.
    """

    def __init__(self, settings: FleetSettings, clock: Clock, *, keep_liveness: bool) -> None:
        self._settings = settings
        self._clock = clock
        self._keep_liveness = keep_liveness
        self._step = 0
        self._moved_s = clock.monotonic_s()
        self._calm_since_s: float | None = None
        self._strained_since_s: float | None = None
        self._calm_needed_s = _CALM_S
        self._came_back = False

    @property
    def load_profile(self) -> LoadProfile:
        profile = _STEPS[self._step]
        return replace(profile, liveness=True) if self._keep_liveness else profile

    def feel(self, strain: Strain) -> bool:
        """Takes one look, about once a second; whether `load_profile` has changed."""
        now_s = self._clock.monotonic_s()
        before = self._step
        strained = self._is_strained(strain)
        if not strained:
            self._strained_since_s = None
        elif self._strained_since_s is None:
            self._strained_since_s = now_s
        if strained:
            self._calm_since_s = None
            if self._may_go_down(now_s):
                self._step += 1
                if self._came_back:
                    self._calm_needed_s = min(2 * self._calm_needed_s, _LONGEST_CALM_S)
                    self._came_back = False
        elif self._step and self._is_calm(strain):
            if self._calm_since_s is None:
                self._calm_since_s = now_s
            if now_s - self._calm_since_s >= self._calm_needed_s:
                self._step -= 1
                self._calm_since_s = now_s
                self._came_back = True
        else:
            self._calm_since_s = None
        if self._step == before:
            return False
        self._moved_s = now_s
        self._say(before, strain)
        return True

    def _may_go_down(self, now_s: float) -> bool:
        sure = self._strained_since_s is not None and now_s - self._strained_since_s >= _SURE_S
        return sure and now_s - self._moved_s >= _WORSE_S and self._step + 1 < len(_STEPS)

    def _is_strained(self, strain: Strain) -> bool:
        hot = strain.temperature_c is not None and strain.temperature_c >= self._settings.hot_c
        fps = strain.slowest_fps
        # A camera that is made slow on purpose is not one that cannot be kept up with.
        wanted = min(self._settings.min_fps, (self.load_profile.max_fps or 1e9) / 2)
        return hot or bool(strain.throttled) or (fps is not None and fps < wanted)

    def _is_calm(self, strain: Strain) -> bool:
        return strain.temperature_c is None or strain.temperature_c <= self._settings.cool_c

    def _say(self, before: int, strain: Strain) -> None:
        gave_up = _plainly(self.load_profile)
        degrees = "" if strain.temperature_c is None else f" at {strain.temperature_c:.0f} °C"
        if self._step > before:
            log.warning("Too much for this box%s; it does less: %s", degrees, gave_up)
        else:
            log.info("The box is calm%s; now: %s", degrees, gave_up)


def _plainly(profile: LoadProfile) -> str:
    """What is done without, for people."""
    told = []
    if profile.detect_every > 1:
        told.append(f"faces are looked for in one frame of {profile.detect_every}")
    if profile.max_fps is not None:
        told.append(f"{profile.max_fps:g} frames a second")
    names = {"closer looks": profile.closer_looks, "occlusion": profile.occlusion}
    names["liveness"] = profile.liveness
    without = " or ".join(name for name, kept in names.items() if not kept)
    if without:
        told.append(f"no {without}")
    return ", ".join(told) or "everything as configured"
