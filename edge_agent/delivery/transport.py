"""What the delivery loop asks of a road to the server."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from edge_agent.outbox.records import StoredProbe
from shared.wire.messages import LocalEventMessage, ProbeReceipt, TrackMessage
from shared.wire.topics import TopicKind


class Transport(Protocol):
    """A road to the server. Its contract is tested for every implementation alike."""

    @property
    def name(self) -> str:
        """The road and its far end as a person would like to read it, without secrets."""
        ...

    def open(self, wake: Callable[[], None]) -> None:
        """Prepares the road; never fails because the far end is away.

        `wake` may be called from any thread when receipts have come or the road is free again.
        """
        ...

    def exchange(self, batch: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        """Offers probes in order, and answers the receipts that have come so far.

        A probe without a receipt is offered again later: the call decides whether it is time to
        send it once more. Only the server's own word is a receipt.

        Raises Unavailable (later may help; `details["retry_after_s"]` where the server says when),
        Unauthenticated or Forbidden (a person must do something; the probes are kept).
        """
        ...

    def send_tracks(self, messages: Sequence[TrackMessage]) -> None:
        """Tells the far end who came and who left; nobody asks again whether it has heard.

        Raises as `exchange` does. A far end that knows no such messages is told nothing.
        """
        ...

    def close(self, timeout_s: float) -> None:
        """Says goodbye where the road has a way to, within about `timeout_s`."""
        ...


@runtime_checkable
class CarriesMessages(Protocol):
    """A road that carries messages about the box itself beside its probes."""

    def listen(self, kind: TopicKind, take: Callable[[bytes], None]) -> None:
        """Has `take` called, in the road's thread, with each message of a kind; before `open`."""
        ...

    def say(self, kind: TopicKind, body: str, *, retain: bool = False) -> None:
        """Sends it now or not at all; what is retained is sent until the far end has it.

        Raises as `exchange` does.
        """
        ...


@runtime_checkable
class TellsLocalEvents(Protocol):
    """A road on which others listen too: its broker may be near when the server is not."""

    def send_local(self, message: LocalEventMessage) -> None:
        """Tells them what the box decided by itself; never raises, never waits."""
        ...
