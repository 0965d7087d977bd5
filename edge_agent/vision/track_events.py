"""Events of faces that come into a camera's view and leave it, until they are sent."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Protocol

from shared.clock import Clock, SystemClock
from shared.wire.messages import TrackMessage

_KEPT: Final = 256
_FRESH_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class TrackChange:
    """One face came into view or left it."""

    camera: str
    track_id: str  # UUIDv7
    state: Literal["began", "ended"]
    at: datetime  # UTC, by the box's clock
    began_at: datetime  # `at` less the track's duration by the monotonic clock
    in_view: int  # confirmed faces before this camera after this change
    probes: int = 0  # of the track so far
    reasons: tuple[str, ...] = field(
        default=()
    )  # why it gave none: quality factors, the most frequent first

    def message(self, device: str) -> TrackMessage:
        """The change as a wire message."""
        return TrackMessage(
            device=device,
            camera=self.camera,
            track_id=self.track_id,
            state=self.state,
            at=self.at,
            began_at=self.began_at,
            in_view=self.in_view,
            probes=self.probes,
            reasons=list(self.reasons),
        )


class TrackSink(Protocol):
    """Receives the changes of a pipeline's tracks."""

    def put(self, changes: Sequence[TrackChange]) -> None: ...


class TrackQueue:
    """Changes in memory until they are sent.

    The agent owns it, the cameras fill it, the delivery empties it. It holds at most 256 changes:
    further ones replace the oldest, and changes older than 30 s are not sent. `dropped` counts
    both. Safe to use from several threads.
    """

    def __init__(self, device: str, *, clock: Clock | None = None) -> None:
        self.dropped = 0
        self._device = device
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, TrackChange]] = deque()  # since when, monotonic
        self._observers: list[Callable[[], None]] = []

    def put(self, changes: Sequence[TrackChange]) -> None:
        with self._lock:
            now_s = self._clock.monotonic_s()
            self._waiting.extend((now_s, change) for change in changes)
            while len(self._waiting) > _KEPT:
                self._waiting.popleft()
                self.dropped += 1
        if changes:
            for observer in self._observers:
                observer()

    def take(self, limit: int = 64) -> list[TrackMessage]:
        """Removes the oldest changes that are still recent, and returns them as messages."""
        taken: list[TrackMessage] = []
        with self._lock:
            oldest_s = self._clock.monotonic_s() - _FRESH_S
            while self._waiting and len(taken) < limit:
                since_s, change = self._waiting.popleft()
                if since_s < oldest_s:
                    self.dropped += 1
                else:
                    taken.append(change.message(self._device))
        return taken

    def lost(self, count: int) -> None:
        """Counts changes that were taken and could not be sent."""
        with self._lock:
            self.dropped += count

    def observe(self, observer: Callable[[], None]) -> None:
        """Calls `observer` after each put, in the thread that put."""
        self._observers.append(observer)
