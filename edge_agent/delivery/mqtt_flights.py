"""Probes that were published over a broker and are not confirmed: when each is sent again."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.outbox.records import StoredProbe
from shared.backoff import Backoff
from shared.clock import Clock

_MAX_RESEND_S: Final = 60.0
_NO_SUBSCRIBER_RESEND: Final = Backoff(1.0, _MAX_RESEND_S)
_MAX_ACKNOWLEDGEMENTS: Final = 10_000
NO_SUBSCRIBERS: Final = 0x10  # MQTT 5.0, 3.4.2.1: PUBACK "No matching subscribers"


@dataclass(frozen=True, slots=True)
class _Flight:
    """One published probe."""

    message: int  # paho's number of the newest copy
    copies: int  # sent so far
    sent_at_s: float  # of the newest copy, on the monotonic clock
    timeout_s: float  # without a receipt, it is sent again after this time


class Flights:
    """Used by the delivery thread, except `acknowledged`, which any thread may call."""

    def __init__(self, resend_s: float, clock: Clock) -> None:
        self._resend = Backoff(resend_s, _MAX_RESEND_S)
        self._clock = clock
        self._flights: dict[str, _Flight] = {}
        self._acknowledged: deque[tuple[int, ReasonCode]] = deque(maxlen=_MAX_ACKNOWLEDGEMENTS)
        self.denied: str | None = None  # why the broker does not accept the probes

    def remove(self, confirmed: set[str], waiting: set[str]) -> None:
        """Removes the flights of confirmed probes and of those that no longer wait."""
        for probe_id in list(self._flights):
            if probe_id in confirmed or probe_id not in waiting:
                del self._flights[probe_id]

    def due(self, batch: Sequence[StoredProbe]) -> Iterator[StoredProbe]:
        """Yields the probes that must be published now, for the first time or again."""
        self._read_acknowledgements()
        now_s = self._clock.monotonic_s()
        for probe in batch:
            flight = self._flights.get(probe.probe_id)
            if flight is None or now_s - flight.sent_at_s >= flight.timeout_s:
                yield probe

    def timeout_s(self, probe_id: str) -> float:
        """Returns the time after which the next copy of this probe is sent again."""
        return self._resend.limit_s(self._copies(probe_id) + 1)

    def published(self, probe_id: str, message: int) -> None:
        flight = _Flight(
            message,
            self._copies(probe_id) + 1,
            self._clock.monotonic_s(),
            self.timeout_s(probe_id),
        )
        self._flights[probe_id] = flight

    def acknowledged(self, message: int, reason: ReasonCode) -> None:
        """The broker has accepted or rejected a message."""
        self._acknowledged.append((message, reason))

    def _copies(self, probe_id: str) -> int:
        flight = self._flights.get(probe_id)
        return 0 if flight is None else flight.copies

    def _read_acknowledgements(self) -> None:
        reasons: dict[int, ReasonCode] = {}
        while self._acknowledged:
            message, reason = self._acknowledged.popleft()
            reasons[message] = reason
        for probe_id, flight in self._flights.items():
            if flight.message not in reasons:
                continue
            reason = reasons[flight.message]
            self.denied = str(reason) if reason.is_failure else None
            if reason.value == NO_SUBSCRIBERS:
                timeout_s = min(flight.timeout_s, _NO_SUBSCRIBER_RESEND.limit_s(flight.copies))
                self._flights[probe_id] = replace(flight, timeout_s=timeout_s)
