"""Two roads to the server: the one that is wanted, and another for when it leads nowhere."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from edge_agent.delivery.transport import CarriesMessages, TellsLocalEvents, Transport
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
    """The first road while it works, else the second; back as soon as the first works again.

    The first is left when it says that it leads nowhere, or when it takes probes and no receipt
    has come for `give_up_s` (a broker is there, and nobody behind it). It is tried again after
    every `try_again_s`, and at once when it calls. A probe that went both ways is known to the
    server by its id, so changing roads can neither lose nor double one.
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
        self._called = threading.Event()  # the first road has called
        self._unanswered_since_s: float | None = None  # probes are under way on the first road
        self._first_again_s: float | None = None  # when to try it again; None: it is in use

    @property
    def name(self) -> str:
        return self._first.name if self._first_again_s is None else self._second.name

    def open(self, wake: Callable[[], None]) -> None:
        def call() -> None:
            self._called.set()
            wake()

        self._first.open(call)
        self._second.open(wake)

    def exchange(self, batch: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        now_s = self._clock.monotonic_s()
        called = self._called.is_set()
        self._called.clear()
        if self._first_again_s is not None and now_s < self._first_again_s and not called:
            return self._second.exchange(batch)
        try:
            receipts = self._first.exchange(batch)
        except _AWAY as error:
            return self._by_the_second(batch, now_s, error)
        if receipts:
            self._stay_on_the_first()
            return receipts
        if self._unanswered_since_s is None:
            self._unanswered_since_s = now_s
        if self._first_again_s is None and now_s - self._unanswered_since_s < self._give_up_s:
            return []
        silent = Unavailable(f"nobody behind the {self._first.name} answers for probes")
        return self._by_the_second(batch, now_s, silent)

    def send_tracks(self, messages: Sequence[TrackMessage]) -> None:
        road = self._first if self._first_again_s is None else self._second
        road.send_tracks(messages)

    def send_local(self, message: LocalEventMessage) -> None:
        """The second road needs none: there the server itself would be asked."""
        if isinstance(self._first, TellsLocalEvents):
            self._first.send_local(message)

    def listen(self, kind: TopicKind, take: Callable[[bytes], None]) -> None:
        if isinstance(self._first, CarriesMessages):
            self._first.listen(kind, take)

    def say(self, kind: TopicKind, body: str, *, retain: bool = False) -> None:
        """Over the first road only: over the second, the server is asked itself."""
        if not isinstance(self._first, CarriesMessages) or self._first_again_s is not None:
            raise Unavailable(f"the {self._first.name} is not the road at the moment")
        self._first.say(kind, body, retain=retain)

    def close(self, timeout_s: float) -> None:
        self._first.close(timeout_s)
        self._second.close(timeout_s)

    def _stay_on_the_first(self) -> None:
        if self._first_again_s is not None:
            log.warning("Back on the %s", self._first.name)
        self._first_again_s = self._unanswered_since_s = None

    def _by_the_second(
        self, batch: Sequence[StoredProbe], now_s: float, why: MusterError
    ) -> list[ProbeReceipt]:
        try:
            receipts = self._second.exchange(batch)
        except _AWAY as error:
            # The first stays the one to be tried: whichever comes back first is taken.
            raise type(error)(f"{why.message}, and {error.message}", **error.details) from why
        if self._first_again_s is None:
            log.warning("%s; going over the %s", sentence(why.message), self._second.name)
        self._first_again_s = now_s + self._try_again_s
        self._unanswered_since_s = None
        return receipts
