"""Which of the waiting probes are offered together: fewer where many are too much at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from edge_agent.outbox.records import StoredProbe
from shared.backoff import Backoff
from shared.clock import Clock

_MOST: Final = 1024
_TRIES: Final = 3  # of one probe alone, before others are tried in its place
_BACKOFF: Final = Backoff(60.0, 3600.0)  # after them


@dataclass(frozen=True, slots=True)
class _Aside:
    """A probe at which the server failed, though it was alone."""

    tries: int
    again_at_s: float  # on the monotonic clock; until then others go before it
    alone_at_fault: bool = False  # others went well since


class Window:
    """How many probes of a batch are offered at once, and which of them are passed over.

    Half as many after a failure that size may explain (a thin line, a server that is busy), one
    more after a success. A probe at which the server fails again and again though it is alone
    is passed over for a while, so that it stops nobody; it is never given up here.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._size = _MOST
        self._asides: dict[str, _Aside] = {}

    def choose(self, batch: Sequence[StoredProbe]) -> list[StoredProbe]:
        """The probes to be offered now, in order; at least one of the batch."""
        waiting = {one.probe_id for one in batch}
        self._asides = {key: one for key, one in self._asides.items() if key in waiting}
        now_s = self._clock.monotonic_s()
        free = []
        for probe in batch:
            aside = self._asides.get(probe.probe_id)
            if aside is None:
                free.append(probe)
            elif now_s >= aside.again_at_s:
                return [probe]
        return (free or list(batch))[: self._size]

    def went_well(self) -> None:
        self._size = min(self._size + 1, _MOST)
        now_s = self._clock.monotonic_s()
        for probe_id, one in self._asides.items():
            if not one.alone_at_fault:  # the server failed at everything then: once more, now
                self._asides[probe_id] = _Aside(one.tries, now_s, alone_at_fault=True)

    def was_too_slow(self, offered: Sequence[StoredProbe]) -> None:
        self._size = max(1, len(offered) // 2)

    def broke_the_server(self, offered: Sequence[StoredProbe]) -> None:
        """The server's own fault (500): of one of these, it may be, or of all."""
        self.was_too_slow(offered)
        if len(offered) > 1:
            return
        before = self._asides.get(offered[0].probe_id, _Aside(0, 0.0))
        tries = before.tries + 1
        pause_s = _BACKOFF.limit_s(tries - _TRIES + 1) if tries >= _TRIES else 0.0
        self._asides[offered[0].probe_id] = replace(
            before, tries=tries, again_at_s=self._clock.monotonic_s() + pause_s
        )
