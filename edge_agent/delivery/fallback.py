"""Two transports to the server: the preferred one, and another while it fails."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from edge_agent.delivery.transport import CarriesMessages, SendsLocalEvents, Transport
from edge_agent.outbox.records import StoredProbe
from shared.clock import Clock, SystemClock
from shared.errors import Forbidden, MusterError, Unauthenticated, Unavailable
from shared.wire.messages import LocalEventMessage, ProbeReceipt, TrackMessage
from shared.wire.topics import TopicKind
from shared.wording import sentence

log = logging.getLogger(__name__)

_GIVE_UP_S: Final = 20.0
_TRY_AGAIN_S: Final = 30.0
_AWAY: Final = (Unavailable, Unauthenticated, Forbidden)


class FallbackTransport:
    """Uses the first transport while it works, else the second.

    It leaves the first when that raises an error, or when no receipt has come for `give_up_s` (the
    broker works, but no server reads from it). It tries the first again after every `try_again_s`,
    and at once when the first calls `wake`. The server knows a probe by its id, so a change of
    the transport neither loses nor doubles one.
    """

    def __init__(
        self,
        first: Transport,
        second: Transport,
        *,
        give_up_s: float = _GIVE_UP_S,
        try_again_s: float = _TRY_AGAIN_S,
        clock: Clock | None = None,
    ) -> None:
        self._first = first
        self._second = second
        self._give_up_s = give_up_s
        self._try_again_s = try_again_s
        self._clock = clock or SystemClock()
        self._woken = threading.Event()  # by the first transport
        self._unanswered_since_s: float | None = None  # probes wait for receipts of the first
        self._first_again_s: float | None = None  # when to try it again; None: it is in use

    @property
    def name(self) -> str:
        return self._first.name if self._first_again_s is None else self._second.name

    def open(self, wake: Callable[[], None]) -> None:
        def wake_first() -> None:
            self._woken.set()
            wake()

        self._first.open(wake_first)
        self._second.open(wake)

    def exchange(self, batch: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        now_s = self._clock.monotonic_s()
        woken = self._woken.is_set()
        self._woken.clear()
        if self._first_again_s is not None and now_s < self._first_again_s and not woken:
            return self._second.exchange(batch)
        try:
            receipts = self._first.exchange(batch)
        except _AWAY as error:
            return self._use_second(batch, now_s, error)
        if receipts:
            self._use_first()
            return receipts
        if self._unanswered_since_s is None:
            self._unanswered_since_s = now_s
        if self._first_again_s is None and now_s - self._unanswered_since_s < self._give_up_s:
            return []
        silent = Unavailable(f"no server behind the {self._first.name} confirms probes")
        return self._use_second(batch, now_s, silent)

    def send_tracks(self, messages: Sequence[TrackMessage]) -> None:
        transport = self._first if self._first_again_s is None else self._second
        transport.send_tracks(messages)

    def send_local(self, message: LocalEventMessage) -> None:
        """Over the first only: while the second works, the server itself decides."""
        if isinstance(self._first, SendsLocalEvents):
            self._first.send_local(message)

    def listen(self, kind: TopicKind, handle: Callable[[bytes], None]) -> None:
        if isinstance(self._first, CarriesMessages):
            self._first.listen(kind, handle)

    def send_message(self, kind: TopicKind, body: str, *, retain: bool = False) -> None:
        """Over the first only: the second has no such messages."""
        if not isinstance(self._first, CarriesMessages) or self._first_again_s is not None:
            raise Unavailable(f"the {self._first.name} is not in use at the moment")
        self._first.send_message(kind, body, retain=retain)

    def close(self, timeout_s: float) -> None:
        self._first.close(timeout_s)
        self._second.close(timeout_s)

    def _use_first(self) -> None:
        if self._first_again_s is not None:
            log.warning("Using the %s again", self._first.name)
        self._first_again_s = self._unanswered_since_s = None

    def _use_second(
        self, batch: Sequence[StoredProbe], now_s: float, why: MusterError
    ) -> list[ProbeReceipt]:
        try:
            receipts = self._second.exchange(batch)
        except _AWAY as error:
            # Both fail: the next attempt begins with the first again.
            raise type(error)(f"{why.message}, and {error.message}", **error.details) from why
        if self._first_again_s is None:
            log.warning("%s; using the %s", sentence(why.message), self._second.name)
        self._first_again_s = now_s + self._try_again_s
        self._unanswered_since_s = None
        return receipts
