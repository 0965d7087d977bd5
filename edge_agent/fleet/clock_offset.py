"""How far the box's clock is from the server's, measured as NTP does (RFC 5905, section 8).

A message goes out at t1 by the box's clock, the server notes its own time t2, the answer is back
after a round trip of d seconds on the monotonic clock. The offset is t2 - (t1 + d/2), wrong by d/2
at most. Of the newest samples the one with the shortest round trip counts.

The offset is only told, never applied: `captured_at` stays what the box's clock said, and the
server may put it right. Two clocks that correct each other would be worse than one that is wrong.
"""

import threading
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from shared.clock import Clock

_KEPT: Final = 8
_STEP_S: Final = 0.5  # a clock that was set by so much makes older samples worthless


@dataclass(frozen=True, slots=True)
class _Sample:
    offset_s: float
    round_trip_s: float


@dataclass(frozen=True, slots=True)
class Mark:
    """The moment at which a message went out, by both clocks."""

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
        """Taken just before a message goes out."""
        return Mark(self._clock.now(), self._clock.monotonic_s())

    def answered(self, sent: Mark, server_at: datetime) -> None:
        """The answer to the message that was marked so has just come."""
        round_trip_s = self._clock.monotonic_s() - sent.monotonic_s
        offset_s = (server_at - sent.at).total_seconds() - round_trip_s / 2
        with self._lock:
            if self._last is not None and _was_set(self._last, sent):
                self._samples.clear()
            self._last = sent
            self._samples.append(_Sample(offset_s, round_trip_s))

    @property
    def seconds(self) -> float | None:
        """The offset; None while no answer has come since the clock was last set."""
        with self._lock:
            if self._last is None or _was_set(self._last, self.mark()):
                return None
            best = min(self._samples, key=lambda one: one.round_trip_s)
            return round(best.offset_s, 4)


def _was_set(before: Mark, after: Mark) -> bool:
    by_wall_s = (after.at - before.at).total_seconds()
    return abs(by_wall_s - (after.monotonic_s - before.monotonic_s)) > _STEP_S
