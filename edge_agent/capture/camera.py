"""Capture: the frames of one camera, in order from a film, always the newest from a live source."""

import logging
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from edge_agent.capture.image_region import cut_region, upright
from edge_agent.capture.latest_frame import Slot, Taken
from edge_agent.capture.source import Source
from edge_agent.capture.stall import FROZEN_S, FreezeWatch, StallLimit
from edge_agent.config.camera import ViewSettings
from models.types import BgrImage
from shared.addresses import redacted_text
from shared.backoff import Backoff
from shared.clock import Clock, SystemClock
from shared.errors import MusterError, SourceError, UnreadablePicture

log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_QUIET_S: Final = 2.0  # a camera that gave nothing for so long is called stalled
_HEALTHY_S: Final = 60.0  # failures are forgotten after so long without one
_GONE_S: Final = 2.5  # of an outage; longer, and whoever was in view is taken to have left
_SLOW_START_S: Final = 5.0  # a first picture that takes longer is waited for: a keyframe


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of one camera: the region of it that is looked at."""

    image: BgrImage  # (height, width, 3)
    captured_at: datetime  # timezone-aware, UTC, by the box's clock
    time_s: float  # stream time: what passed between two frames in the world
    index: int  # from 0, of the frames that were taken
    camera: str
    alone: bool = False  # a still that has nothing to do with the frames before and after
    origin: tuple[int, int] = (0, 0)  # x, y of `image` in the camera's whole upright picture ...
    whole: tuple[int, int] | None = None  # ... and that picture's width and height, if larger

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of `image` in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def source_size(self) -> tuple[int, int]:
        """Width and height of the whole upright picture, which boxes refer to outside."""
        return self.whole or self.size


@dataclass(frozen=True, slots=True)
class ReadMode:
    """How a camera is read."""

    live: bool  # newest frame only; older ones are dropped and counted
    reconnect: bool  # come back after a failure, for ever, with growing pauses
    realtime: bool = False  # play a film at its own pace, as a live camera would give it


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
        self.max_fps = max_fps  # frames a second, at most; others are passed over undecoded
        self.last_frame_at: datetime | None = None
        self.error: str | None = None  # why there are no pictures; None while there are
        self.unreadable = 0  # pictures that were passed over; of a film, frames that are lost
        self.on_silence: Callable[[], None] = lambda: None  # called once in each longer outage
        self._open = open_source
        self._source: Source | None = None  # that was opened last
        self._mode = mode
        self._stop = stop
        self._view = view or ViewSettings()
        self._clock = clock or SystemClock()
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, jitter=jitter)
        self._count = 0
        self._stall = stall or StallLimit()
        self._freeze = FreezeWatch()
        self._failures = 0  # since the camera was last well for a minute
        self._lost_s: float | None = None  # monotonic: when the outage began that lasts
        self._back_s = 0.0  # monotonic: when the last outage ended
        self._comes_and_goes = False
        self._silence_said = False
        self._slow_start_said = False
        self._dropped = 0  # by the slots before this one
        self._slot: Slot | None = None
        self._seen_s: float | None = None  # monotonic, of the newest frame
        self._ended = False

    @property
    def dropped(self) -> int:
        """Live frames that a newer one replaced before anybody took them."""
        slot = self._slot
        return self._dropped + (0 if slot is None else slot.dropped)

    @property
    def state(self) -> State:
        """How the camera is, for any thread that asks."""
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
        """Raises SourceError for a source that fails, unless the manner is to reconnect."""
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
            except Exception as raised:  # whatever a library raises costs this camera alone
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
        elif self._lost_s is None and not self._comes_and_goes:
            self._comes_and_goes = True
            log.warning(
                "Camera %s comes and goes: %s; no more is said until it is well for a minute",
                self.name,
                error.message,
            )
        if self._lost_s is None:
            self._lost_s, self._silence_said = now_s, False
        silent_s = now_s - (self._lost_s if self._seen_s is None else self._seen_s)
        if silent_s > _GONE_S and not self._silence_said:
            self._silence_said = True
            self.on_silence()

    def _forget_failures(self, now_s: float) -> None:
        """After a minute without a failure. Called while there are pictures."""
        if not self._failures or self._lost_s is not None or now_s - self._back_s < _HEALTHY_S:
            return
        if self._comes_and_goes:
            log.warning("Camera %s has given pictures for a minute", self.name)
        self._failures, self._comes_and_goes = 0, False

    def _came_back(self, now_s: float) -> None:
        if not self._comes_and_goes:
            log.warning("Camera %s gives pictures again", self.name)
        self._lost_s, self._back_s = None, now_s

    def _until_end(self) -> Iterator[Frame]:
        reader = self._live() if self._mode.live or self._mode.realtime else self._in_order()
        for taken in reader:
            now_s = self._clock.monotonic_s()
            if self._mode.live and self._freeze.is_frozen(taken.image, now_s):
                raise SourceError(f"it has given the very same picture for {FROZEN_S:.0f} s")
            if self._lost_s is not None:
                self._came_back(now_s)
            self._forget_failures(now_s)
            self.error = None
            self.last_frame_at = taken.captured_at
            self._seen_s = now_s
            yield self._frame(taken)
            self._count += 1

    def _pass_over(self, error: UnreadablePicture) -> None:
        """One bad picture is no outage: it is counted, and said at the 1st, 10th, 100th …"""
        self.unreadable += 1
        if self.unreadable == 10 ** (len(str(self.unreadable)) - 1):
            log.warning(
                "Camera %s: passed over %d unreadable picture(s); the last: %s",
                self.name,
                self.unreadable,
                error.message,
            )

    def _frame(self, taken: Taken) -> Frame:
        whole = upright(taken.image, self._view)
        image, origin = cut_region(whole, self._view)
        return Frame(
            image,
            taken.captured_at,
            taken.time_s,
            self._count,
            self.name,
            taken.alone,
            origin,
            (whole.shape[1], whole.shape[0]),
        )

    def _opened(self) -> Source:
        self._source = source = self._open()
        return source

    def _in_order(self) -> Iterator[Taken]:
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
                yield Taken(image, time_s, self._clock.now(), source.stills)
        finally:
            source.close()

    def _live(self) -> Iterator[Taken]:
        pace = Pace(lambda: self.max_fps)
        self._slot = slot = Slot(
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
        slot.start()
        try:
            while (taken := slot.take()) is not None:
                if first and self._mode.live:
                    self._say_slow_start(self._clock.monotonic_s() - began_s)
                first = False
                yield taken
        finally:
            slot.close()
            self._slot = None
            self._dropped += slot.dropped

    def _say_slow_start(self, took_s: float) -> None:
        slow_s = _SLOW_START_S + (0 if self.max_fps is None else 1 / self.max_fps)
        if took_s > slow_s and not self._slow_start_said:
            self._slow_start_said = True
            log.warning("Camera %s: %s", self.name, slow_start(took_s))


def slow_start(took_s: float) -> str:
    """The sentence about a camera whose first picture takes long."""
    return (
        f"the first picture took {took_s:.0f} s. If its keyframes are so far apart, each outage "
        "lasts as long: set the keyframe (I-frame, GOP) interval in the camera to 1 to 4 s"
    )


def as_source_error(error: Exception) -> SourceError:
    """What a library raised, as the fault of the source that it is, without secrets."""
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
    """Chooses frames so that there are no more than so many a second, evenly."""

    def __init__(self, max_fps: Callable[[], float | None]) -> None:
        self._max_fps = max_fps
        self._due_s: float | None = None

    def is_due(self, time_s: float) -> bool:
        """Whether the frame of stream time `time_s` is wanted."""
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
