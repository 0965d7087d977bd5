"""A thread that reads a live source and keeps its newest frame."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edge_agent.capture.source import Source
from edge_agent.capture.stall import StallLimit
from models.types import BgrImage
from shared.clock import Clock
from shared.errors import SourceError, UnreadablePicture

_CLOSE_S: Final = 0.5
_LOOK_S: Final = 0.2
_OPEN_S: Final = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class RawFrame:
    """A picture as its source gave it."""

    image: BgrImage
    time_s: float  # stream time
    captured_at: datetime  # UTC
    alone: bool


class LatestFrame:
    """The newest frame of a source, read by a thread of its own. It replaces one not yet taken.

    A `watched` source fails when it gives nothing for longer than `stall` allows, or no first
    picture within a minute. `unreadable` is called, in the reading thread, for each picture that
    cannot be read. A `paced` source, a film, is played at its own speed.
    """

    def __init__(
        self,
        open_source: Callable[[], Source],
        stop: threading.Event,
        clock: Clock,
        is_due: Callable[[float], bool],
        *,
        paced: bool,
        watched: bool,
        stall: StallLimit,
        unreadable: Callable[[UnreadablePicture], None],
    ) -> None:
        self.dropped = 0
        self._open = open_source
        self._stop = stop
        self._clock = clock
        self._is_due = is_due
        self._paced = paced
        self._watched = watched
        self._stall = stall
        self._unreadable = unreadable
        self._unreadable_why: str | None = None  # of the newest picture, where it cannot be read
        self._changed = threading.Condition()
        self._newest: RawFrame | None = None
        self._ended = False
        self._closing = False
        self._error: Exception | None = None
        self._began_s = clock.monotonic_s()
        self._alive_s: float | None = None  # monotonic: when the source gave its last picture
        self._thread = threading.Thread(target=self._run, name="camera-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self) -> RawFrame | None:
        """Waits for a new frame; None at the end or when `stop` is set.

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
                self._check_stall()
                self._changed.wait(_LOOK_S)  # setting `stop` does not notify
        return None

    def close(self) -> None:
        """Ends the thread, which closes the source when its last read returns."""
        self._closing = True
        self._thread.join(_CLOSE_S)

    def _check_stall(self) -> None:
        if not self._watched:
            return
        now_s, alive_s, why = self._clock.monotonic_s(), self._alive_s, self._unreadable_why
        limit_s = _OPEN_S if alive_s is None else self._stall.seconds
        if now_s - (self._began_s if alive_s is None else alive_s) <= limit_s:
            return
        self._stall.stalled()
        if why is not None:
            raise SourceError(f"it has given no readable picture for {limit_s:.3g} s: {why}")
        if alive_s is None:
            raise SourceError(f"it has given no first picture in {limit_s:g} s")
        raise SourceError(f"it has given nothing for {limit_s:.3g} s")

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self._read_all()
        except Exception as raised:  # `take` raises it in its own thread
            error = raised
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify()

    def _read_all(self) -> None:
        self._stall.opened()
        source = self._open()
        try:
            began_s = self._clock.monotonic_s()
            while not (self._closing or self._stop.is_set()):
                time_s = source.grab()
                if time_s is None:
                    return
                if not self._is_due(time_s):
                    self._note_picture()
                    continue
                # The time before decoding; for a film, the time at which the frame is due.
                captured_at = self._clock.now()
                try:
                    image = source.retrieve()
                except UnreadablePicture as error:
                    self._unreadable_why = error.message
                    self._unreadable(error)
                    continue
                self._note_picture()
                if self._paced:
                    self._stop.wait(max(0.0, began_s + time_s - self._clock.monotonic_s()))
                    captured_at = self._clock.now()
                self._offer(RawFrame(image, time_s, captured_at, source.stills))
        finally:
            source.close()

    def _note_picture(self) -> None:
        """Notes that a picture came, readable or not decoded."""
        self._alive_s = self._clock.monotonic_s()
        self._unreadable_why = None
        self._stall.came(self._alive_s)

    def _offer(self, frame: RawFrame) -> None:
        with self._changed:
            if self._newest is not None:
                self.dropped += 1
            self._newest = frame
            self._changed.notify()
