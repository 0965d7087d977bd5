"""Takes probes and reports from the broker into the database: none lost, none twice.

The broker keeps a probe until this process has acknowledged it, and it is acknowledged only after
its transaction is on the disk. The box keeps it until the receipt, published after that, names it.
If one of them crashes in between, another still has the probe; a second copy is recognised by its
probe id.

A problem of one device never delays the probes of others. A probe that can never be stored is
refused and acknowledged. A probe that cannot be stored now for a reason of its own (its collection
is gone or locked) is acknowledged without a receipt: its box sends it again. A probe stays
unacknowledged only while the database or the disk cannot be used at all.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError
from pydantic_core import from_json

from match_server.mqtt.client import why_no_broker
from match_server.mqtt.reading import read_message
from match_server.mqtt.signing import signed, signer
from match_server.schemas.events import ProbeResult, probe_id_of
from match_server.schemas.validation import malformed
from match_server.services.devices.message_keys import MessageKeys
from shared.backoff import Backoff
from shared.errors import (
    CollectionUnavailable,
    Forbidden,
    MalformedInput,
    ModelMismatch,
    MusterError,
    Unavailable,
)
from shared.mqtt_client import Broker, connect_properties
from shared.systemd import Watchdog, notify
from shared.wire.message_keys import MessageKey
from shared.wire.messages import (
    ProbeMessage,
    ProbeReceipt,
    ReceiptMessage,
    StatusMessage,
    TrackMessage,
)
from shared.wire.topics import DeviceTopics, any_device

log = logging.getLogger(__name__)

_GROUP = "muster-ingest"
_SESSION_S = 7 * 24 * 3600  # for which the broker keeps the subscription and unacknowledged probes
_IN_FLIGHT = 64  # probes that the broker sends before they are acknowledged
_KEEPALIVE_S = 30
_LOOP_S = 0.5  # until a stop is noticed at the latest
_BACKOFF = Backoff(0.5, 30.0)

Receipt = tuple[str, bytes, Properties | None]
"""Topic, body and signature."""


class Intake(Protocol):
    """Stores probes and reports."""

    def accept(self, message: ProbeMessage, *, site: str | None = None) -> ProbeResult:
        """Raises CollectionUnavailable if this probe, Unavailable if no probe can be stored."""
        ...

    def note_status(self, site: str, message: StatusMessage) -> None: ...


class Tracks(Protocol):
    """Takes the tracks that boxes report."""

    def note(self, messages: Sequence[TrackMessage]) -> object: ...


class Consumer:
    """A member of the group of processes that share the probes.

    All work is done in the thread that calls `run`: while it stores a probe the broker waits, with
    at most 64 more on their way.
    """

    def __init__(
        self,
        broker: Broker,
        intake: Intake,
        tracks: Tracks | None = None,
        keys: MessageKeys | None = None,
    ) -> None:
        """Without `tracks`, tracks are not subscribed to; with `keys`, signatures are checked."""
        self._broker = broker
        self._intake = intake
        self._keys = keys
        self._tracks = tracks
        self._stop = threading.Event()
        self._failures = 0
        self._watchdog = Watchdog()
        self._ready: Callable[[], None] = lambda: None
        self._client = self._make_client()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Consumes until `stop`; connects again, with growing pauses, when the broker is away."""
        self._ready = ready
        notify("READY=1")  # also without a broker: it is waited for
        while not self._stop.is_set():
            self._watchdog.alive()
            try:
                self._client.connect(
                    self._broker.host,
                    self._broker.port,
                    keepalive=_KEEPALIVE_S,
                    clean_start=False,
                    properties=connect_properties(
                        SessionExpiryInterval=_SESSION_S, ReceiveMaximum=_IN_FLIGHT
                    ),
                )
                self._consume()
            except OSError as error:
                log.warning("Failed to reach the broker", extra={"reason": why_no_broker(error)})
            except Exception:  # a bug would end this process, and all boxes would wait
                log.exception("Failed to consume; connecting again")
            if not self._stop.is_set():
                self._failures += 1
                self._stop.wait(_BACKOFF.pause_s(self._failures))

    def stop(self) -> None:
        """Makes `run` return soon; may be called from a signal handler or another thread."""
        self._stop.set()

    def _consume(self) -> None:
        """Consumes until the connection is lost or `stop` is called."""
        while not self._stop.is_set():
            self._watchdog.alive()
            if self._client.loop(_LOOP_S) != mqtt.MQTT_ERR_SUCCESS:
                log.warning("Lost the connection to the broker")
                return
        self._client.disconnect()

    def _make_client(self) -> mqtt.Client:
        # `run` reconnects, also after the database was away.
        client = self._broker.client(manual_ack=True, reconnect=False)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _props: Any
    ) -> None:
        if reason.is_failure:
            log.error("The broker refused the connection", extra={"reason": str(reason)})
            return
        # Status is retained, and retained messages do not come over a shared subscription.
        topics = [any_device("probe", group=_GROUP), any_device("status")]
        if self._tracks is not None:
            topics.append(any_device("track", group=_GROUP))
        client.subscribe([(topic, 1) for topic in topics])

    def _on_subscribe(
        self, client: mqtt.Client, _data: Any, _mid: int, reasons: list[ReasonCode], _props: Any
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            log.error("The broker refused the subscription", extra={"reasons": str(reasons)})
            client.disconnect()
            return
        self._failures = 0
        log.info("Consuming", extra={"broker": self._broker.host})
        self._ready()

    def _on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        if self._stop.is_set():
            return  # not acknowledged: the broker sends it to another process, or again later
        try:
            receipt = self._take(message)
        except Unavailable as error:
            # Without an acknowledgement the broker sends it again after the reconnect.
            log.warning("Failed to store a probe for now", extra={"reason": error.message})
            client.disconnect()
            return
        client.ack(message.mid, message.qos)
        if receipt is not None:
            topic, body, properties = receipt
            client.publish(topic, body, qos=1, properties=properties)

    def _take(self, message: mqtt.MQTTMessage) -> Receipt | None:
        """Stores a message. Returns the receipt to publish.

        Raises Unavailable where no message of any device can be stored now, and nothing else.
        """
        try:
            return self._store(message)
        except MusterError as error:
            if isinstance(error, Unavailable) and not isinstance(error, CollectionUnavailable):
                raise
            extra = {"topic": message.topic, "reason": error.message}
            log.warning("Skipped a message; its sender may send it again", extra=extra)
        except Exception:  # a bug would end this process, and again at each start
            log.exception("Skipped a message because of a bug")
        return None

    def _store(self, message: mqtt.MQTTMessage) -> Receipt | None:
        try:
            topics, kind = DeviceTopics.parse(message.topic)
        except MalformedInput:
            log.warning("Ignored a message on an unknown topic")
            return None
        key = None if self._keys is None else signer(self._keys, topics, message)
        if kind == "probe":
            return self._take_probe(topics, message.payload, key)
        if kind == "track" and self._tracks is not None:
            track = read_message(TrackMessage, topics, message.payload)
            if track is not None:
                self._tracks.note([track])
        if kind == "status" and message.payload:  # empty: a retained status that was deleted
            status = read_message(StatusMessage, topics, message.payload)
            if status is not None:
                self._intake.note_status(topics.site, status)
        return None

    def _take_probe(
        self, topics: DeviceTopics, payload: bytes | bytearray, key: MessageKey | None
    ) -> Receipt | None:
        result = self._stored_probe(topics, payload)
        if not result.probe_id:
            log.warning("Ignored a probe without an id", extra={"device": topics.device})
            return None
        receipt = ProbeReceipt(
            probe_id=result.probe_id,
            status=result.status,
            code=result.code,
            message=result.message,
        )
        body = ReceiptMessage(receipts=[receipt]).model_dump_json().encode()
        return topics.receipt, body, signed(key, topics.receipt, body)

    def _stored_probe(self, topics: DeviceTopics, payload: bytes | bytearray) -> ProbeResult:
        try:
            probe = ProbeMessage.model_validate_json(payload)
        except ValidationError as error:
            return ProbeResult.refused(probe_id_of(_object(payload)), malformed(error))
        if probe.device != topics.device:
            why = f"device {topics.device!r} may not send for {probe.device!r}"
            return ProbeResult.refused(probe.probe_id, Forbidden(why))
        try:
            return self._intake.accept(probe, site=topics.site)
        except (MalformedInput, ModelMismatch) as error:  # for good
            return ProbeResult.refused(probe.probe_id, error)


def _object(payload: bytes | bytearray) -> object:
    try:
        return from_json(bytes(payload))  # unlike `json`, this rejects half of a surrogate pair
    except ValueError:
        return None
