"""Probes and reports in: from the broker into the database, none lost, none twice.

The broker keeps a probe until this process has acknowledged it, and it is acknowledged only after
its transaction is on the disk. The box keeps it until the receipt, published after that, names it.
Whoever dies in between, somebody still has the probe; the probe id makes the second copy harmless.

One device's trouble never stands before another's probes. What can never be stored is refused and
acknowledged. What cannot be stored now for a reason of its own (its collection is gone or locked)
is acknowledged without a receipt: its box sends it again. Only while the database or the disk is
away, for everybody, a probe stays unacknowledged.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError
from pydantic_core import from_json

from match_server.mqtt.client import why_no_broker
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
from shared.wire.messages import ProbeMessage, ProbeReceipt, ReceiptMessage, StatusMessage
from shared.wire.topics import DeviceTopics, TopicKind, any_device

log = logging.getLogger(__name__)

_GROUP = "muster-ingest"
_SESSION_S = 7 * 24 * 3600  # the broker keeps our subscription and unacknowledged probes this long
_IN_FLIGHT = 64  # probes that the broker sends ahead of our acknowledgements
_KEEPALIVE_S = 30
_LOOP_S = 0.5  # how long a stop may go unnoticed
_BACKOFF = Backoff(0.5, 30.0)


class Intake(Protocol):
    """What the consumer asks of the server."""

    def accept(self, message: ProbeMessage, *, site: str | None = None) -> ProbeResult:
        """Raises CollectionUnavailable for this probe's trouble, Unavailable for everybody's."""
        ...

    def note_status(self, site: str, message: StatusMessage) -> None: ...


@dataclass(frozen=True, slots=True)
class Listening:
    """What is done with one more kind of message from boxes.

    `take` gets the device that the topic names and the payload. Unavailable, if it raises that,
    means that the message is to come again; what can never be read it leaves aside and logs.
    """

    kind: TopicKind
    take: Callable[[DeviceTopics, bytes], None]
    shared: bool  # one consumer gets it; not for retained kinds, which must reach everybody


class Consumer:
    """One member of the group that shares the probes among itself.

    All work is done in one thread, the one that calls `run`: while a probe is being stored the
    broker waits, with at most 64 more under way.
    """

    def __init__(
        self,
        broker: Broker,
        intake: Intake,
        listenings: Sequence[Listening] = (),
        keys: MessageKeys | None = None,
    ) -> None:
        """With `keys`, signatures are asked for where they say so."""
        self._broker = broker
        self._intake = intake
        self._keys = keys
        self._listenings = {one.kind: one for one in listenings}
        self._stop = threading.Event()
        self._failures = 0
        self._watchdog = Watchdog()
        self._ready: Callable[[], None] = lambda: None
        self._client = self._make_client()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Consume until `stop`; a broker that is away is tried again, with growing pauses."""
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
                log.warning("the broker does not answer", extra={"reason": why_no_broker(error)})
            except Exception:  # of what the broker says, or of this program: all boxes wait
                log.exception("consuming failed; it begins anew")
            if not self._stop.is_set():
                self._failures += 1
                self._stop.wait(_BACKOFF.pause_s(self._failures))

    def stop(self) -> None:
        """Let `run` return soon; may be called from a signal handler or another thread."""
        self._stop.set()

    def _consume(self) -> None:
        """Until the connection is gone, or we are to stop."""
        while not self._stop.is_set():
            self._watchdog.alive()
            if self._client.loop(_LOOP_S) != mqtt.MQTT_ERR_SUCCESS:
                log.warning("the connection to the broker is gone")
                return
        self._client.disconnect()

    def _make_client(self) -> mqtt.Client:
        # Not reconnected by itself: `run` does it, also when the database was away.
        client = self._broker.client(manual_ack=True, reconnect=False)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _props: Any
    ) -> None:
        if reason.is_failure:
            log.error("the broker refuses us", extra={"reason": str(reason)})
            return
        # Status is retained, and retained messages do not come over a shared subscription.
        topics = [any_device("probe", group=_GROUP), any_device("status")]
        topics += [
            any_device(one.kind, group=_GROUP if one.shared else None)
            for one in self._listenings.values()
        ]
        client.subscribe([(topic, 1) for topic in topics])

    def _on_subscribe(
        self, client: mqtt.Client, _data: Any, _mid: int, reasons: list[ReasonCode], _props: Any
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            log.error("the broker does not let us subscribe", extra={"reasons": str(reasons)})
            client.disconnect()
            return
        self._failures = 0
        log.info("consuming", extra={"broker": self._broker.host})
        self._ready()

    def _on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        if self._stop.is_set():
            return  # not acknowledged: the broker gives it to another, or to us next time
        try:
            receipt = self._take(message)
        except Unavailable as error:
            # Without an acknowledgement the broker sends it again, once we are back.
            log.warning("a probe cannot be stored now", extra={"reason": error.message})
            client.disconnect()
            return
        client.ack(message.mid, message.qos)
        if receipt is not None:
            topic, body, properties = receipt
            client.publish(topic, body, qos=1, properties=properties)

    def _take(self, message: mqtt.MQTTMessage) -> tuple[str, bytes, Properties | None] | None:
        """Store what has come; answers the receipt to be published, its topic and its signature.

        Raises Unavailable only, where nothing can be stored now, whoever sends it.
        """
        try:
            return self._stored(message)
        except MusterError as error:
            if isinstance(error, Unavailable) and not isinstance(error, CollectionUnavailable):
                raise
            extra = {"topic": message.topic, "reason": error.message}
            log.warning("a message is left aside: its sender may send it again", extra=extra)
        except Exception:  # it would end this process, and at each start again
            log.exception("a message is left aside: a fault of this program")
        return None

    def _stored(self, message: mqtt.MQTTMessage) -> tuple[str, bytes, Properties | None] | None:
        try:
            topics, kind = DeviceTopics.parse(message.topic)
        except MalformedInput:
            log.warning("a message on a topic that is none of ours is left aside")
            return None
        key = None if self._keys is None else signer(self._keys, topics, message)
        if kind == "status":
            self._take_status(topics, message.payload)
            return None
        if kind in self._listenings:
            self._listenings[kind].take(topics, bytes(message.payload))
            return None
        if kind != "probe":
            return None
        result = self._take_probe(topics, message.payload)
        if not result.probe_id:
            log.warning("a probe without an id is left aside", extra={"device": topics.device})
            return None
        receipt = ProbeReceipt(
            probe_id=result.probe_id,
            status=result.status,
            code=result.code,
            message=result.message,
        )
        body = ReceiptMessage(receipts=[receipt]).model_dump_json().encode()
        return topics.receipt, body, signed(key, topics.receipt, body)

    def _take_probe(self, topics: DeviceTopics, payload: bytes | bytearray) -> ProbeResult:
        try:
            probe = ProbeMessage.model_validate_json(payload)
        except ValidationError as error:
            return ProbeResult.refused(probe_id_of(_object(payload)), malformed(error))
        if probe.device != topics.device:
            why = f"device {topics.device!r} may not speak for {probe.device!r}"
            return ProbeResult.refused(probe.probe_id, Forbidden(why))
        try:
            return self._intake.accept(probe, site=topics.site)
        except (MalformedInput, ModelMismatch) as error:  # and will be so for ever
            return ProbeResult.refused(probe.probe_id, error)

    def _take_status(self, topics: DeviceTopics, payload: bytes | bytearray) -> None:
        if not payload:
            return  # a retained status that was deleted
        try:
            status = StatusMessage.model_validate_json(payload)
        except ValidationError:
            log.warning("a status that is none is left aside", extra={"device": topics.device})
            return
        if status.device == topics.device:
            self._intake.note_status(topics.site, status)


def _object(payload: bytes | bytearray) -> object:
    try:
        return from_json(bytes(payload))  # unlike `json`, it takes no half of a surrogate pair
    except ValueError:
        return None
