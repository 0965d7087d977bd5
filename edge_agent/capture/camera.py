"""Capture: the frames of one camera; all of a film, the newest ones of a live source."""

import logging
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from edge_agent.capture.image_region import cut_region, upright
from edge_agent.capture.latest_frame import LatestFrame, RawFrame
from edge_agent.capture.source import Source
from edge_agent.capture.stall import FROZEN_S, FreezeDetector, StallLimit
from edge_agent.config.camera import ViewSettings
from models.types import BgrImage
from shared.addresses import redacted_text
from shared.backoff import Backoff
from shared.clock import Clock, SystemClock
from shared.errors import MusterError, SourceError, UnreadablePicture

log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_QUIET_S: Final = 2.0  # a camera without pictures for so long is stalled
_HEALTHY_S: Final = 60.0  # after so long without a failure, the next one is the first again
_GONE_S: Final = 2.5  # of an outage; after a longer one, all faces in view have left
_SLOW_START_S: Final = 5.0  # a first picture that takes longer waits for a keyframe


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of one camera, cut to the region that is searched."""

    image: BgrImage  # (height, width, 3)
    captured_at: datetime  # timezone-aware, UTC, by the box's clock
    time_s: float  # stream time: the time between two frames in the scene
    index: int  # from 0, of the frames that were processed
    camera: str
    alone: bool = False  # a still: a scene of its own
    origin: tuple[int, int] = (0, 0)  # x, y of `image` in the camera's whole upright picture ...
    whole: tuple[int, int] | None = None  # ... and that picture's width and height, if larger

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of `image` in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def source_size(self) -> tuple[int, int]:
        """Width and height of the whole upright picture, which the boxes of probes refer to."""
        return self.whole or self.size


@dataclass(frozen=True, slots=True)
class ReadMode:
    """How a camera is read."""

    live: bool  # newest frame only; older ones are dropped and counted
    reconnect: bool  # open it again after each failure, with growing pauses
    realtime: bool = False  # play a film at its own speed


State = Literal["starting", "running", "stalled", "lost", "ended"]


class Capture:
    """The frames of one camera until `stop` is set or its film ends.

    A live source is read by a thread of its own with room for one frame: a newer frame replaces
    a waiting one, and `dropped` counts it. Each outage is logged when it begins and when it ends;
    repeated outages are logged once. A picture that cannot be read is skipped and counted. Any
    thread may change `max_fps`.
    """

    def __init__(
        self,
        name: str,
        open_source: Callable[[], Source],
        mode: ReadMode,
        stop: threading.Event,
        *,
        view: ViewSettings | None = None,
        max_fps: float | None = None,
        stall: StallLimit | None = None,
        clock: Clock | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self.name = name
        self.max_fps = max_fps  # frames a second, at most; others are not decoded
        self.last_frame_at: datetime | None = None
        self.error: str | None = None  # why there are no pictures; None while there are
        self.unreadable = 0  # pictures that were skipped; of a film, lost frames
        self.on_silence: Callable[[], None] = lambda: None  # called once in each long outage
        self._open = open_source
        self._source: Source | None = None  # the last one that was opened
        self._mode = mode
        self._stop = stop
        self._view = view or ViewSettings()
        self._clock = clock or SystemClock()
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, jitter=jitter)
        self._count = 0
        self._stall = stall or StallLimit()
        self._freeze = FreezeDetector()
        self._failures = 0  # since the camera last ran for a minute without one
        self._lost_s: float | None = None  # monotonic: when the present outage began
        self._back_s = 0.0  # monotonic: when the last outage ended
        self._is_unsteady = False
        self._silence_reported = False
        self._slow_start_reported = False
        self._dropped = 0  # on connections before this one
        self._latest: LatestFrame | None = None
        self._seen_s: float | None = None  # monotonic, of the newest frame
        self._ended = False

    @property
    def dropped(self) -> int:
        """Live frames that a newer one replaced before they were processed."""
        latest = self._latest
        return self._dropped + (0 if latest is None else latest.dropped)

    @property
    def state(self) -> State:
        """The state of the camera; any thread may read it."""
        if self._ended:
            return "ended"
        if self._lost_s is not None:
            return "lost"
        if self._seen_s is None:
            return "starting"
        slow_s = max(_QUIET_S, self._stall.seconds / 2)
        slow_s += 0 if self.max_fps is None else 2 / self.max_fps
        live = self._mode.live and self._clock.monotonic_s() - self._seen_s > slow_s
        return "stalled" if live else "running"

    def __iter__(self) -> Iterator[Frame]:
        """Raises SourceError for a source that fails, unless the mode is to reconnect."""
        try:
            yield from self._through_outages()
        finally:
            self._ended = True
            self.unreadable = max(self.unreadable, getattr(self._source, "lost", 0))

    def _through_outages(self) -> Iterator[Frame]:
        while not self._stop.is_set():
            try:
                yield from self._until_end()
                return
            except Exception as raised:  # an error of any library stops this camera alone
                error = as_source_error(raised)
            self.error = error.message
            if not self._mode.reconnect:
                raise error
            self._failed(error)
            self._stop.wait(self._backoff.pause_s(self._failures))

    def _failed(self, error: SourceError) -> None:
        now_s = self._clock.monotonic_s()
        self._forget_failures(now_s)
        self._failures += 1
        if self._failures == 1:
            log.error("Camera %s: %s; trying again", self.name, error.message)
        elif self._lost_s is None and not self._is_unsteady:
            self._is_unsteady = True
            log.warning(
                "Camera %s comes and goes: %s; not logged again until it has run for a minute",
                self.name,
                error.message,
            )
        if self._lost_s is None:
            self._lost_s, self._silence_reported = now_s, False
        silent_s = now_s - (self._lost_s if self._seen_s is None else self._seen_s)
        if silent_s > _GONE_S and not self._silence_reported:
            self._silence_reported = True
            self.on_silence()

    def _forget_failures(self, now_s: float) -> None:
        """Resets the failures after a minute without one. Called while there are pictures."""
        if not self._failures or self._lost_s is not None or now_s - self._back_s < _HEALTHY_S:
            return
        if self._is_unsteady:
            log.warning("Camera %s has given pictures for a minute", self.name)
        self._failures, self._is_unsteady = 0, False

    def _came_back(self, now_s: float) -> None:
        if not self._is_unsteady:
            log.warning("Camera %s gives pictures again", self.name)
        self._lost_s, self._back_s = None, now_s

    def _until_end(self) -> Iterator[Frame]:
        reader = self._live() if self._mode.live or self._mode.realtime else self._in_order()
        for raw in reader:
            now_s = self._clock.monotonic_s()
            if self._mode.live and self._freeze.is_frozen(raw.image, now_s):
                raise SourceError(f"it has given the very same picture for {FROZEN_S:.0f} s")
            if self._lost_s is not None:
                self._came_back(now_s)
            self._forget_failures(now_s)
            self.error = None
            self.last_frame_at = raw.captured_at
            self._seen_s = now_s
            yield self._frame(raw)
            self._count += 1

    def _pass_over(self, error: UnreadablePicture) -> None:
        """Counts an unreadable picture, and logs the 1st, 10th, 100th …"""
        self.unreadable += 1
        if self.unreadable == 10 ** (len(str(self.unreadable)) - 1):
            log.warning(
                "Camera %s: skipped %d unreadable picture(s); the last: %s",
                self.name,
                self.unreadable,
                error.message,
            )

    def _frame(self, raw: RawFrame) -> Frame:
        whole = upright(raw.image, self._view)
        image, origin = cut_region(whole, self._view)
        return Frame(
            image,
            raw.captured_at,
            raw.time_s,
            self._count,
            self.name,
            raw.alone,
            origin,
            (whole.shape[1], whole.shape[0]),
        )

    def _opened(self) -> Source:
        self._source = source = self._open()
        return source

    def _in_order(self) -> Iterator[RawFrame]:
        source = self._opened()
        pace = Pace(lambda: None if source.stills else self.max_fps)
        try:
            while not self._stop.is_set():
                time_s = source.grab()
                if time_s is None:
                    return
                if not pace.is_due(time_s):
                    continue
                try:
                    image = source.retrieve()
                except UnreadablePicture as error:
                    self._pass_over(error)
                    continue
                yield RawFrame(image, time_s, self._clock.now(), source.stills)
        finally:
            source.close()

    def _live(self) -> Iterator[RawFrame]:
        pace = Pace(lambda: self.max_fps)
        self._latest = latest = LatestFrame(
            self._opened,
            self._stop,
            self._clock,
            pace.is_due,
            paced=self._mode.realtime,
            watched=self._mode.live,
            stall=self._stall,
            unreadable=self._pass_over,
        )
        began_s, first = self._clock.monotonic_s(), True
        latest.start()
        try:
            while (raw := latest.take()) is not None:
                if first and self._mode.live:
                    self._report_slow_start(self._clock.monotonic_s() - began_s)
                first = False
                yield raw
        finally:
            latest.close()
            self._latest = None
            self._dropped += latest.dropped

    def _report_slow_start(self, took_s: float) -> None:
        slow_s = _SLOW_START_S + (0 if self.max_fps is None else 1 / self.max_fps)
        if took_s > slow_s and not self._slow_start_reported:
            self._slow_start_reported = True
            log.warning("Camera %s: %s", self.name, slow_start_advice(took_s))


def slow_start_advice(took_s: float) -> str:
    """Explains why the first picture took long, and what to change in the camera."""
    return (
        f"the first picture took {took_s:.0f} s. If its keyframes are so far apart, each outage "
        "lasts as long: set the keyframe (I-frame, GOP) interval in the camera to 1 to 4 s"
    )


def as_source_error(error: Exception) -> SourceError:
    """Turns any error that a source raised into a SourceError without secrets."""
    if isinstance(error, SourceError):
        return error
    if isinstance(error, MusterError):
        return SourceError(error.message)
    log.debug("A source failed unexpectedly", exc_info=error)
    text = redacted_text(str(error))[:200]
    fault = SourceError(f"it failed unexpectedly ({type(error).__name__}: {text})")
    fault.__cause__ = error
    return fault


class Pace:
    """Chooses frames evenly so that there are at most `max_fps` a second."""

    def __init__(self, max_fps: Callable[[], float | None]) -> None:
        self._max_fps = max_fps
        self._due_s: float | None = None

    def is_due(self, time_s: float) -> bool:
        """Whether the frame of stream time `time_s` is chosen."""
        max_fps = self._max_fps()
        if max_fps is None:
            self._due_s = None
            return True
        every_s = 1.0 / max_fps
        if self._due_s is None or not -2 * every_s < time_s - self._due_s < 2 * every_s:
            self._due_s = time_s  # the first frame, or one after a gap
        # Half a millisecond, or rounding would make every second frame of an even pace late.
        if time_s < self._due_s - 0.0005:
            return False
        self._due_s += every_s
        return True
