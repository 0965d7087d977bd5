"""The offset between the device's clock and the server's, measured as in NTP (RFC 5905, 8).

A message is sent at t1 by the device's clock, the server notes its own time t2, and the response
comes after a round trip of d seconds on the monotonic clock. The offset is t2 - (t1 + d/2), with an
error of d/2 at most. Of the newest samples the one with the shortest round trip counts.

The offset is only reported, never applied: `captured_at` has the time of the device's clock, and
the server may correct it. Two clocks that correct each other would be worse than a wrong one.
"""

import threading
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from shared.clock import Clock

_KEPT: Final = 8
_STEP_S: Final = 0.5  # after a larger step of the clock older samples are useless


@dataclass(frozen=True, slots=True)
class _Sample:
    offset_s: float
    round_trip_s: float


@dataclass(frozen=True, slots=True)
class Mark:
    """The time at which a message was sent, by both clocks."""

    at: datetime
    monotonic_s: float


class ClockOffset:
    """The server's clock minus the box's. Safe to use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: deque[_Sample] = deque(maxlen=_KEPT)
        self._last: Mark | None = None

    def mark(self) -> Mark:
        """Returns the present time; called just before a message is sent."""
        return Mark(self._clock.now(), self._clock.monotonic_s())

    def answered(self, sent: Mark, server_at: datetime) -> None:
        """The response to the message with this mark has just come."""
        round_trip_s = self._clock.monotonic_s() - sent.monotonic_s
        offset_s = (server_at - sent.at).total_seconds() - round_trip_s / 2
        with self._lock:
            if self._last is not None and _was_set(self._last, sent):
                self._samples.clear()
            self._last = sent
            self._samples.append(_Sample(offset_s, round_trip_s))

    @property
    def seconds(self) -> float | None:
        """The offset; None while no response has come since the clock was set."""
        with self._lock:
            if self._last is None or _was_set(self._last, self.mark()):
                return None
            best = min(self._samples, key=lambda sample: sample.round_trip_s)
            return round(best.offset_s, 4)


def _was_set(before: Mark, after: Mark) -> bool:
    by_wall_s = (after.at - before.at).total_seconds()
    return abs(by_wall_s - (after.monotonic_s - before.monotonic_s)) > _STEP_S
