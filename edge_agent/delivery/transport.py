"""Protocols of a transport: the way on which probes and messages reach the server."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from edge_agent.outbox.records import StoredProbe
from shared.wire.messages import LocalEventMessage, ProbeReceipt, TrackMessage
from shared.wire.topics import TopicKind


class Transport(Protocol):
    """Delivers probes. The same tests check every implementation."""

    @property
    def name(self) -> str:
        """The kind and the address of the other end, for people, without secrets."""
        ...

    def open(self, wake: Callable[[], None]) -> None:
        """Prepares the transport; never fails because the other end is unreachable.

        `wake` may be called from any thread, when receipts have come or the connection works again.
        """
        ...

    def exchange(self, batch: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        """Sends probes in order, and returns the receipts that have come so far.

        A probe without a receipt is passed again later: the transport decides when to send it
        again. Only the server's own message is a receipt.

        Raises Unavailable (a later attempt may help; `details["retry_after_s"]` where the server
        names a time), Unauthenticated or Forbidden (a person must act; the probes are kept).
        """
        ...

    def send_tracks(self, messages: Sequence[TrackMessage]) -> None:
        """Sends who came into view and who left, once; no receipt is expected.

        Raises as `exchange` does. Nothing is sent to a server that does not know such messages.
        """
        ...

    def close(self, timeout_s: float) -> None:
        """Signs off where the transport can, within about `timeout_s`."""
        ...


@runtime_checkable
class CarriesMessages(Protocol):
    """A transport that also carries messages about the device itself."""

    def listen(self, kind: TopicKind, handle: Callable[[bytes], None]) -> None:
        """Registers, before `open`, a handler for messages of a kind; any thread may call it."""
        ...

    def send_message(self, kind: TopicKind, body: str, *, retain: bool = False) -> None:
        """Sends it now or not at all. A retained message is sent until the other end has it.

        Raises as `exchange` does.
        """
        ...


@runtime_checkable
class SendsLocalEvents(Protocol):
    """A transport with other listeners: a broker may be near while the server is unreachable."""

    def send_local(self, message: LocalEventMessage) -> None:
        """Sends a decision that the device made by itself; never raises, never waits."""
        ...
