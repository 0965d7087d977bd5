"""Chooses how many waiting probes are sent together: fewer after failures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from edge_agent.outbox.records import StoredProbe
from shared.backoff import Backoff
from shared.clock import Clock

_MAX_SIZE: Final = 1024
_TRIES: Final = 3  # with one probe alone, before others are sent in its place
_BACKOFF: Final = Backoff(60.0, 3600.0)  # after these tries


@dataclass(frozen=True, slots=True)
class _Failed:
    """A probe at which the server failed, though it was sent alone."""

    tries: int
    again_at_s: float  # on the monotonic clock; until then others are sent first
    is_cause: bool = False  # other probes succeeded since


class BatchWindow:
    """Chooses the probes of one request.

    Half as many after a failure that the size may explain (a slow line, a busy server), one more
    after a success. A probe at which the server fails repeatedly, though it was sent alone, is
    skipped for a while, so that it does not block others; it is never dropped here.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._size = _MAX_SIZE
        self._failed: dict[str, _Failed] = {}

    def choose(self, batch: Sequence[StoredProbe]) -> list[StoredProbe]:
        """Returns the probes to send now, in order; at least one of the batch."""
        waiting = {probe.probe_id for probe in batch}
        self._failed = {key: failed for key, failed in self._failed.items() if key in waiting}
        now_s = self._clock.monotonic_s()
        others = []
        for probe in batch:
            failed = self._failed.get(probe.probe_id)
            if failed is None:
                others.append(probe)
            elif now_s >= failed.again_at_s:
                return [probe]
        return (others or list(batch))[: self._size]

    def succeeded(self) -> None:
        self._size = min(self._size + 1, _MAX_SIZE)
        now_s = self._clock.monotonic_s()
        for probe_id, failed in self._failed.items():
            if not failed.is_cause:  # the server may have failed at everything: try again now
                self._failed[probe_id] = _Failed(failed.tries, now_s, is_cause=True)

    def timed_out(self, sent: Sequence[StoredProbe]) -> None:
        self._size = max(1, len(sent) // 2)

    def server_failed(self, sent: Sequence[StoredProbe]) -> None:
        """After an internal error of the server (500), caused by one of these probes or by all."""
        self.timed_out(sent)
        if len(sent) > 1:
            return
        before = self._failed.get(sent[0].probe_id, _Failed(0, 0.0))
        tries = before.tries + 1
        pause_s = _BACKOFF.limit_s(tries - _TRIES + 1) if tries >= _TRIES else 0.0
        self._failed[sent[0].probe_id] = replace(
            before, tries=tries, again_at_s=self._clock.monotonic_s() + pause_s
        )
