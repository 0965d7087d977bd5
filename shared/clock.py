"""Time: timezone-aware UTC for what is written down, a monotonic clock for what is measured."""

import time
from datetime import UTC, datetime
from typing import Protocol

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(9999, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """The two clocks that a process needs; tests bring their own."""

    def now(self) -> datetime:
        """The time of day, timezone-aware, in UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()


def sensible(moment: datetime) -> datetime:
    """`moment` itself. Raises ValueError outside of the years 1970 to 9998 (UTC).

    Near the ends of the calendar a change of time zone or a few seconds more overflow.
    """
    if not _FIRST <= moment < _END:
        raise ValueError("must lie in the years 1970 to 9998")
    return moment


def rfc3339(moment: datetime) -> str:
    """`moment` as RFC 3339 in UTC with milliseconds, e.g. `2026-11-22T14:45:00.123Z`.

    Raises ValueError for a naive datetime: which moment it means is not known.
    """
    if moment.tzinfo is None:
        raise ValueError("a naive datetime names no moment: give it a timezone")
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"
