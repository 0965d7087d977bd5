"""Capture: the frames of one camera, in order from a film, always the newest from a live source."""

import logging
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edge_agent.capture.sources import Source
from models.types import BgrImage
from shared.clock import Clock, SystemClock
from shared.errors import SourceError

log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_CLOSE_S: Final = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of one camera."""

    image: BgrImage  # (height, width, 3)
    captured_at: datetime  # timezone-aware, UTC, by the box's clock
    time_s: float  # stream time: what passed between two frames in the world
    index: int  # from 0, of the frames that were taken
    camera: str
    alone: bool = False  # a still that has nothing to do with the frames before and after

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]


_Taken = tuple[BgrImage, float, datetime, bool]  # image, stream time, captured at, alone


@dataclass(frozen=True, slots=True)
class Manner:
    """How a camera is read."""

    live: bool  # newest frame only; older ones are dropped and counted
    reconnect: bool  # come back after a failure, for ever, with growing pauses
    realtime: bool = False  # play a film at its own pace, as a live camera would give it


class Feed:
    """The frames of one camera until `stop` is set or its film ends.

    A live source is opened and read by a thread of its own, which owns a slot for one frame: a
    newer frame replaces one that nobody took, and `dropped` counts it. An outage is said once, and
    once more when the pictures come back.
    """

    def __init__(
        self,
        camera: str,
        open_source: Callable[[], Source],
        manner: Manner,
        stop: threading.Event,
        *,
        clock: Clock | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self.camera = camera
        self.dropped = 0
        self._open = open_source
        self._manner = manner
        self._stop = stop
        self._clock = clock or SystemClock()
        self._jitter = jitter or random.Random()  # noqa: S311  # spreads retries, hides nothing
        self._count = 0
        self._failures = 0

    def __iter__(self) -> Iterator[Frame]:
        """Raises SourceError for a source that fails, unless the manner is to reconnect."""
        while not self._stop.is_set():
            try:
                yield from self._until_end()
                return
            except SourceError as error:
                if not self._manner.reconnect:
                    raise
                self._failures += 1
                if self._failures == 1:
                    log.error("Camera %s: %s; trying again", self.camera, error.message)
            self._stop.wait(self._pause_s())

    def _until_end(self) -> Iterator[Frame]:
        reader = self._live() if self._manner.live or self._manner.realtime else self._in_order()
        for image, time_s, captured_at, alone in reader:
            if self._failures:
                log.warning("Camera %s gives pictures again", self.camera)
                self._failures = 0
            yield Frame(image, captured_at, time_s, self._count, self.camera, alone)
            self._count += 1

    def _in_order(self) -> Iterator[_Taken]:
        source = self._open()
        try:
            while not self._stop.is_set():
                read = source.read()
                if read is None:
                    return
                yield *read, self._clock.now(), source.stills
        finally:
            source.close()

    def _live(self) -> Iterator[_Taken]:
        slot = _Slot(self._open, self._manner.realtime, self._stop, self._clock)
        slot.start()
        try:
            while (taken := slot.take()) is not None:
                yield taken
        finally:
            slot.close()
            self.dropped += slot.dropped

    def _pause_s(self) -> float:
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 16))
        return longest * self._jitter.uniform(0.5, 1.0)


class _Slot:
    """A thread that reads a source, and room for its newest frame."""

    def __init__(
        self, open_source: Callable[[], Source], paced: bool, stop: threading.Event, clock: Clock
    ) -> None:
        self.dropped = 0
        self._open = open_source
        self._paced = paced
        self._stop = stop
        self._clock = clock
        self._changed = threading.Condition()
        self._newest: _Taken | None = None
        self._ended = False
        self._closing = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="camera-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self) -> _Taken | None:
        """Waits for a frame that was not taken yet; None at the end or when told to stop.

        Raises the reader's error after the last frame was taken.
        """
        with self._changed:
            while not self._stop.is_set():
                if self._newest is not None:
                    taken, self._newest = self._newest, None
                    return taken
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return None
                self._changed.wait(0.2)  # `stop` notifies nobody
        return None

    def close(self) -> None:
        """Lets the thread go; it closes the source itself when its last read returns."""
        self._closing = True
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self._read_all()
        except Exception as raised:  # handed to the thread that takes, which raises it
            error = raised
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify()

    def _read_all(self) -> None:
        source = self._open()
        try:
            began_s = self._clock.monotonic_s()
            while not (self._closing or self._stop.is_set()):
                read = source.read()
                if read is None:
                    return
                if self._paced:
                    self._stop.wait(max(0.0, began_s + read[1] - self._clock.monotonic_s()))
                self._offer((*read, self._clock.now(), source.stills))
        finally:
            source.close()

    def _offer(self, frame: _Taken) -> None:
        with self._changed:
            if self._newest is not None:
                self.dropped += 1
            self._newest = frame
            self._changed.notify()
