"""Probes over MQTT 5: QoS 1, a persistent session, a last will, receipts from the server itself."""

import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError

from edge_agent.config.settings import BrokerSettings
from edge_agent.delivery.mqtt_flights import NO_SUBSCRIBERS, Flights
from edge_agent.delivery.mqtt_reconnect import ReconnectPauses
from edge_agent.outbox.records import StoredProbe
from shared.clock import Clock, SystemClock
from shared.errors import (
    Damaged,
    Forbidden,
    MusterError,
    Unauthenticated,
    Unavailable,
)
from shared.mqtt_client import Broker, MqttLogin, connect_properties, properties
from shared.wire.message_keys import PROPERTY, MessageKey, signature_of
from shared.wire.messages import (
    LocalEventMessage,
    ProbeMessage,
    ProbeReceipt,
    ReceiptMessage,
    StatusMessage,
    TrackMessage,
)
from shared.wire.topics import DeviceTopics, TopicKind

log = logging.getLogger(__name__)

_SESSION_S: Final = 24 * 3600
_KEEPALIVE_S: Final = 20
_CONNECTING_S: Final = 5.0
_KEPT_RECEIPTS: Final = 10_000
_TRACK_EXPIRY_S: Final = 30  # an older message about people in view is useless
_LOCAL_EXPIRY_S: Final = 30  # an older decision is no reason to open a door
_PACKET_HEAD_BYTES: Final = 160  # of a PUBLISH: fixed header, packet id, properties, signature
_LONGEST_TOPIC_BYTES: Final = 256
_LOG_AGAIN_S: Final = 3600.0
_LOGIN_REFUSED: Final = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C})
"""MQTT 5.0, 3.2.2.2: CONNACK codes that a person must do something about (name, key, ban)."""


class MqttTransport:
    """Delivers over an MQTT 5 broker (`mqtt://host[:port]`, `mqtts://…` for TLS).

    A broker's acknowledgement proves only that the broker has a probe. So a probe counts as
    delivered when the server's ReceiptMessage names it. Until then it is published again after
    `resend_s`, then after twice that, up to a minute, and sooner where the broker reports no
    subscribers. Each copy expires at the broker when the next is due, so that copies do not pile
    up there while no server listens. At most one batch of `exchange` is under way; the number of
    receipts not yet collected is bounded as well (the oldest is dropped, then the probe is sent
    again and confirmed as a duplicate).

    With a `key` every message is signed. Of the messages from the broker only those count that
    are signed (or encrypted) with the same key, so other clients of the broker cannot forge them.
    """

    def __init__(
        self,
        url: str,
        topics: DeviceTopics,
        login: MqttLogin | None = None,
        *,
        key: MessageKey | None = None,
        resend_s: float = 15.0,
        clock: Clock | None = None,
    ) -> None:
        self._topics = topics
        self._broker = _broker(url, topics, login or MqttLogin())
        self._key = key
        self._clock = clock or SystemClock()
        self._flights = Flights(resend_s, self._clock)
        self._pauses = ReconnectPauses(topics.device, self._clock)
        self._lock = threading.Lock()
        self._receipts: deque[ProbeReceipt] = deque(maxlen=_KEPT_RECEIPTS)
        self._ready = threading.Event()
        self._refused: str | None = None  # why the broker refuses the connection
        self._broken: Exception | None = None  # an unexpected error in the client's thread
        self._max_packet_bytes: int | None = None  # largest packet of the broker, in bytes
        self._log_forged_s = -math.inf  # when forged messages may be logged again
        self._no_subscribers = False
        self._connecting_until_s = 0.0  # while the first connection is being made
        self._wake: Callable[[], None] = lambda: None
        self._listeners: dict[str, Callable[[bytes], None]] = {}  # by topic, besides receipts
        self._client = self._make_client()

    @property
    def name(self) -> str:
        return f"broker {self._broker.host}:{self._broker.port}"

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._connecting_until_s = self._clock.monotonic_s() + _CONNECTING_S
        self._client.connect_async(
            self._broker.host,
            self._broker.port,
            keepalive=_KEEPALIVE_S,
            clean_start=False,
            properties=connect_properties(SessionExpiryInterval=_SESSION_S),
        )
        self._client.loop_start()

    def exchange(self, batch: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        if self._broken is not None:
            raise self._broken
        receipts = self._collect(batch)
        if receipts:
            return receipts
        if not self._ready.is_set():
            if self._clock.monotonic_s() < self._connecting_until_s and self._refused is None:
                return []
            raise self._connection_error()
        for probe in self._flights.due(batch):
            self._publish(probe)
        if (denied := self._flights.denied) is not None:
            raise Forbidden(f"the {self.name} does not take this box's probes: {denied}")
        return []

    def send_tracks(self, messages: Sequence[TrackMessage]) -> None:
        if not self._ready.is_set():
            raise self._connection_error()
        for message in messages:
            self._send("track", message.model_dump_json().encode(), expiry_s=_TRACK_EXPIRY_S)

    def send_local(self, message: LocalEventMessage) -> None:
        """Publishes a decision of this device, if the broker is connected."""
        if self._ready.is_set():
            self._send("event", message.model_dump_json().encode(), expiry_s=_LOCAL_EXPIRY_S)

    def listen(self, kind: TopicKind, handle: Callable[[bytes], None]) -> None:
        self._listeners[self._topics.of(kind)] = handle

    def send_message(self, kind: TopicKind, body: str, *, retain: bool = False) -> None:
        if not self._ready.is_set():
            raise self._connection_error()
        max_bytes = self._max_body_bytes()
        if max_bytes is not None and len(body.encode()) > max_bytes:
            raise Unavailable(
                f"the {self.name} takes packets of {self._max_packet_bytes} bytes at most"
            )
        self._send(kind, body.encode(), qos=1 if retain else 0, retain=retain)

    def close(self, timeout_s: float) -> None:
        if self._ready.is_set():
            with suppress(RuntimeError):  # the connection is gone in this moment
                self._send_status(False).wait_for_publish(timeout_s / 2)
        self._client.disconnect()
        # `loop_stop` waits for the client's thread, which may wait for a silent broker.
        ending = threading.Thread(target=self._client.loop_stop, name="mqtt-end", daemon=True)
        ending.start()
        ending.join(timeout_s / 2)

    def _stop_connecting(self) -> None:
        if self._connecting_until_s:
            self._connecting_until_s = 0.0
            self._wake()

    def _collect(self, batch: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        with self._lock:
            receipts = list(self._receipts)
            self._receipts.clear()
        confirmed = {receipt.probe_id for receipt in receipts}
        self._flights.remove(confirmed, {probe.probe_id for probe in batch})
        return receipts

    def _publish(self, probe: StoredProbe) -> None:
        body = self._reduced(probe.body)
        if body is None:
            return
        timeout_s = self._flights.timeout_s(probe.probe_id)
        info = self._send("probe", body, expiry_s=max(1, round(timeout_s)))
        self._flights.published(probe.probe_id, info.mid)

    def _reduced(self, body: bytes) -> bytes | None:
        """Returns a probe without its thumbnail where it would be too large; None if it still is.

        A broker closes the connection of a client that sends more than the announced limit.
        """
        max_bytes = self._max_body_bytes()
        if max_bytes is None or len(body) <= max_bytes:
            return body
        small = ProbeMessage.model_validate_json(body).model_copy(update={"thumbnail": None})
        bare = small.model_dump_json().encode()
        if len(bare) <= max_bytes:
            return bare
        self._flights.denied = (
            f"it takes packets of {self._max_packet_bytes} bytes, and a probe has {len(bare)}"
        )
        return None

    def _max_body_bytes(self) -> int | None:
        """Returns the largest message that fits into a packet; None where there is no limit."""
        if self._max_packet_bytes is None:
            return None
        return self._max_packet_bytes - _PACKET_HEAD_BYTES - _LONGEST_TOPIC_BYTES

    def _send_status(self, online: bool) -> paho.MQTTMessageInfo:
        return self._send("status", self._status(online), retain=True)

    def _status(self, online: bool) -> bytes:
        return StatusMessage(device=self._topics.device, online=online).model_dump_json().encode()

    def _send(
        self,
        kind: TopicKind,
        body: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> paho.MQTTMessageInfo:
        topic = self._topics.of(kind)
        signed = self._signed(PacketTypes.PUBLISH, topic, body)
        if expiry_s is not None:
            signed.MessageExpiryInterval = expiry_s
        return self._client.publish(topic, body, qos=qos, retain=retain, properties=signed)

    def _signed(self, packet_type: int, topic: str, body: bytes) -> Properties:
        """Returns the properties of a message, with its signature where the device has a key."""
        signed = properties(packet_type)
        if self._key is not None:
            signed.UserProperty = (PROPERTY, self._key.sign(topic, body))
        return signed

    def _connection_error(self) -> MusterError:
        if self._refused is not None:
            return Unauthenticated(f"the {self.name} turns this box away: {self._refused}")
        return Unavailable(f"the {self.name} cannot be reached")

    def _make_client(self) -> paho.Client:
        client = self._broker.client()
        topic, offline = self._topics.status, self._status(False)
        will = self._signed(PacketTypes.WILLMESSAGE, topic, offline)
        client.will_set(topic, offline, qos=1, retain=True, properties=will)
        self._pauses.reset(client)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    # The callbacks run in paho's thread.

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            self._refused = str(reason) if reason.value in _LOGIN_REFUSED else None
            self._stop_connecting()
            return
        self._refused = None
        self._pauses.connected()
        self._note_max_packet(getattr(properties, "MaximumPacketSize", None))
        client.subscribe([(topic, 1) for topic in (self._topics.receipt, *self._listeners)])

    def _on_connect_fail(self, *_arguments: Any) -> None:
        self._stop_connecting()

    def _on_subscribe(
        self, _client: paho.Client, _data: Any, _mid: int, reasons: list[ReasonCode], _props: Any
    ) -> None:
        if not reasons or reasons[0].is_failure:
            self._refused = f"it does not let the box read {self._topics.receipt}"
            return
        self._send_status(True)
        self._connecting_until_s = 0.0
        self._ready.set()
        self._wake()

    def _note_max_packet(self, largest: int | None) -> None:
        if largest != self._max_packet_bytes and largest is not None:
            log.warning(
                "The %s takes packets of %d bytes at most: thumbnails that make a probe larger are "
                "left out",
                self.name,
                largest,
            )
        self._max_packet_bytes = largest

    def _on_disconnect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _props: Any
    ) -> None:
        self._ready.clear()
        self._pauses.disconnected(client, reason, self.name)

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            self._take(message.topic, self._trusted(message))
        except ValidationError:
            log.warning("Ignored an invalid message on %s", message.topic)
        except UnicodeDecodeError:
            log.warning("Ignored a message without a topic from the %s", self.name)
        except (Damaged, Forbidden) as error:
            self._log_forged(error)
        except Exception as error:  # it would end this thread without a report
            self._broken = error
            self._wake()

    def _trusted(self, message: paho.MQTTMessage) -> bytes:
        """Returns the payload. Raises Forbidden or Damaged where the server did not send it."""
        topic, payload = message.topic, bytes(message.payload)
        if self._key is None:
            return payload
        if topic == self._topics.of("config/desired"):
            return self._key.open(topic, payload) if payload else payload
        if not self._key.has_signed(topic, payload, signature_of(message.properties)):
            raise Forbidden(f"a message on {topic} is not signed with this box's key")
        return payload

    def _log_forged(self, error: MusterError) -> None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._log_forged_s:
            self._log_forged_s = now_s + _LOG_AGAIN_S
            log.error(
                "Ignored a message from the %s that the server did not send (%s). If "
                "no receipts come at all, the server does not know the key of this box, or is "
                "older than its agent: enroll the box again, or update the server",
                self.name,
                error.message,
            )

    def _take(self, topic: str, payload: bytes) -> None:
        listener = self._listeners.get(topic)
        if listener is not None:
            listener(payload)
            return
        receipts = ReceiptMessage.model_validate_json(payload).receipts
        with self._lock:
            self._receipts.extend(receipts)
        self._wake()

    def _on_publish(
        self, _client: paho.Client, _data: Any, mid: int, reason: ReasonCode, _props: Any
    ) -> None:
        self._flights.acknowledged(mid, reason)
        no_subscribers = reason.value == NO_SUBSCRIBERS
        if no_subscribers and not self._no_subscribers:
            log.warning(
                "The %s reports no subscriber for probes: is `match-server ingest` running?",
                self.name,
            )
        self._no_subscribers = no_subscribers


def try_broker(url: str, topics: DeviceTopics, login: MqttLogin, timeout_s: float) -> None:
    """Connects like the agent, but with another client id, so that the agent stays connected.

    Raises ConfigurationError, Unavailable or Unauthenticated with the reason.
    """
    answers: queue.SimpleQueue[ReasonCode] = queue.SimpleQueue()
    broker = _broker(url, topics, login)
    client = broker.client("-doctor")
    client.on_connect = lambda _client, _data, _flags, reason, _props: answers.put(reason)
    name = f"{broker.host}:{broker.port}"
    try:
        client.connect(broker.host, broker.port)
        client.loop_start()
        reason = answers.get(timeout=timeout_s)
    except OSError as error:
        raise Unavailable(f"the broker {name} cannot be reached: {error}") from error
    except queue.Empty as error:
        raise Unavailable(f"{name} does not answer as an MQTT 5 broker") from error
    finally:
        client.disconnect()
        client.loop_stop()
    if reason.is_failure:
        raise Unauthenticated(f"the broker {name} turns this box away: {reason}")


def login_of(broker: BrokerSettings) -> MqttLogin:
    """Raises ConfigurationError where the password cannot be read."""
    return MqttLogin(
        username=broker.username,
        password=broker.password(),
        ca_file=broker.ca_file,
        certificate_file=broker.certificate_file,
        key_file=broker.key_file,
    )


def _broker(url: str, topics: DeviceTopics, login: MqttLogin) -> Broker:
    return Broker.at(url, f"muster-{topics.site}-{topics.device}", login)
