"""Probes over MQTT 5: QoS 1, a persistent session, a last will, receipts from the server itself."""

import logging
import math
import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError

from edge_agent.config.settings import BrokerSettings
from edge_agent.outbox.records import StoredProbe
from shared.backoff import Backoff
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
_MAX_RECONNECT_S: Final = 30.0
_MAX_RESEND_S: Final = 60.0
_UNHEARD_RESEND: Final = Backoff(1.0, _MAX_RESEND_S)
_CONNECTING_S: Final = 5.0
_KEPT_RECEIPTS: Final = 10_000
_TRACK_NEWS_S: Final = 30  # who came and who left is no news after that
_LOCAL_NEWS_S: Final = 30  # and who it was, no reason to open a door
_PACKET_HEAD_BYTES: Final = 160  # of a PUBLISH: fixed header, packet id, properties, signature
_LONGEST_TOPIC_BYTES: Final = 256
_SESSION_TAKEN_OVER: Final = 0x8E  # MQTT 5.0, 3.14.2.1: DISCONNECT "Session taken over"
_SHORT_S: Final = 5.0  # a connection that the broker closes so soon is not wanted
_CUT_SHORT: Final = 3  # of them within that time: most likely two boxes have one name
_CUT_SHORT_WITHIN_S: Final = 600.0
_CUT_SHORT_PAUSE_S: Final = 60.0
_SAY_AGAIN_S: Final = 3600.0
_NO_SUBSCRIBERS: Final = 0x10  # MQTT 5.0, 3.4.2.1: PUBACK "No matching subscribers"
_REFUSES_US: Final = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C})
"""MQTT 5.0, 3.2.2.2: CONNACK codes that a person must do something about (name, key, ban)."""


@dataclass(frozen=True, slots=True)
class _Flight:
    """One probe on its way."""

    message: int  # paho's number of the newest copy
    copies: int  # sent so far
    sent_at_s: float  # when the newest was, on the monotonic clock
    patience_s: float  # how long it may stay unanswered


class MqttTransport:
    """The road over an MQTT 5 broker (`mqtt://host[:port]`, `mqtts://…` for TLS).

    A broker's acknowledgement proves only that the broker has a probe. So a probe counts as
    delivered when the server's ReceiptMessage names it; until then it is published again after
    `resend_s`, then twice that, up to a minute, and sooner where the broker says that nobody
    listens. Each copy expires at the broker when the next is due, so that copies do not pile up
    there while no server listens. In flight is at most what `exchange` is given; receipts that
    nobody has collected are bounded too (oldest dropped: the probe is then sent again, and answered
    as a duplicate).

    With a `key` every message is signed, and of the server's only those count that are signed (or,
    with passwords in them, sealed) with it: whoever else can write at the broker gives no receipts.
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
        self._resend = Backoff(resend_s, _MAX_RESEND_S)
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight] = {}
        self._receipts: deque[ProbeReceipt] = deque(maxlen=_KEPT_RECEIPTS)
        self._ready = threading.Event()
        self._refused: str | None = None  # the broker's reason, when it turned the box away
        self._denied: str | None = None  # its reason, when it does not take the box's probes
        self._broken: Exception | None = None  # what would have ended the client's thread
        self._largest: int | None = None  # bytes of a packet that the broker takes
        self._connected_s = -math.inf  # when the newest connection was made
        self._cut_short: deque[float] = deque(maxlen=_CUT_SHORT)  # when, connections just made
        self._say_cut_short_s = -math.inf
        self._say_forged_s = -math.inf
        self._taken: deque[tuple[int, ReasonCode]] = deque(maxlen=_KEPT_RECEIPTS)  # by message
        self._nobody_listens = False
        self._patient_until_s = 0.0  # while the first connection is being made
        self._wake: Callable[[], None] = lambda: None
        self._listeners: dict[str, Callable[[bytes], None]] = {}  # by topic, besides receipts
        self._client = self._make_client()

    @property
    def name(self) -> str:
        return f"broker {self._broker.host}:{self._broker.port}"

    def open(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._patient_until_s = self._clock.monotonic_s() + _CONNECTING_S
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
        self._notice_taken()
        now_s = self._clock.monotonic_s()
        if not self._ready.is_set():
            if now_s < self._patient_until_s and self._refused is None:
                return []
            raise self._why_not()
        for probe in batch:
            flight = self._flights.get(probe.probe_id)
            if flight is None or now_s - flight.sent_at_s >= flight.patience_s:
                self._publish(probe, flight, now_s)
        if self._denied is not None:
            raise Forbidden(f"the {self.name} does not take this box's probes: {self._denied}")
        return []

    def send_tracks(self, messages: Sequence[TrackMessage]) -> None:
        if not self._ready.is_set():
            raise self._why_not()
        for message in messages:
            self._send("track", message.model_dump_json().encode(), expiry_s=_TRACK_NEWS_S)

    def send_local(self, message: LocalEventMessage) -> None:
        """Tells those at the broker, if it is there now, what the box decided by itself."""
        if self._ready.is_set():
            self._send("event", message.model_dump_json().encode(), expiry_s=_LOCAL_NEWS_S)

    def listen(self, kind: TopicKind, take: Callable[[bytes], None]) -> None:
        self._listeners[self._topics.of(kind)] = take

    def say(self, kind: TopicKind, body: str, *, retain: bool = False) -> None:
        if not self._ready.is_set():
            raise self._why_not()
        room = self._room()
        if room is not None and len(body.encode()) > room:
            raise Unavailable(f"the {self.name} takes packets of {self._largest} bytes at most")
        self._send(kind, body.encode(), qos=1 if retain else 0, retain=retain)

    def close(self, timeout_s: float) -> None:
        if self._ready.is_set():
            with suppress(RuntimeError):  # the connection is gone in this moment
                self._say_online(False).wait_for_publish(timeout_s / 2)
        self._client.disconnect()
        # It waits for the client's thread, which may be waiting for a broker that says nothing.
        ending = threading.Thread(target=self._client.loop_stop, name="mqtt-end", daemon=True)
        ending.start()
        ending.join(timeout_s / 2)

    def _give_up_patience(self) -> None:
        if self._patient_until_s:
            self._patient_until_s = 0.0
            self._wake()

    def _collect(self, batch: Sequence[StoredProbe]) -> list[ProbeReceipt]:
        with self._lock:
            receipts = list(self._receipts)
            self._receipts.clear()
            waiting = {probe.probe_id for probe in batch}
            answered = {receipt.probe_id for receipt in receipts}
            for probe_id in list(self._flights):
                if probe_id in answered or probe_id not in waiting:
                    del self._flights[probe_id]
        return receipts

    def _publish(self, probe: StoredProbe, before: _Flight | None, now_s: float) -> None:
        copies = 1 if before is None else before.copies + 1
        patience_s = self._resend.limit_s(copies)
        expiry_s = max(1, round(patience_s))
        body = self._fitting(probe.body)
        if body is None:
            return
        info = self._send("probe", body, expiry_s=expiry_s)
        self._flights[probe.probe_id] = _Flight(info.mid, copies, now_s, patience_s)

    def _fitting(self, body: bytes) -> bytes | None:
        """A probe as the broker takes it: without its thumbnail where that would be too large.

        A broker closes the connection of whoever sends more than it announced.
        """
        room = self._room()
        if room is None or len(body) <= room:
            return body
        small = ProbeMessage.model_validate_json(body).model_copy(update={"thumbnail": None})
        bare = small.model_dump_json().encode()
        if len(bare) <= room:
            return bare
        self._denied = f"it takes packets of {self._largest} bytes, and a probe has {len(bare)}"
        return None

    def _room(self) -> int | None:
        """Bytes of a message that fit into a packet; None: the broker names no limit."""
        if self._largest is None:
            return None
        return self._largest - _PACKET_HEAD_BYTES - _LONGEST_TOPIC_BYTES

    def _notice_taken(self) -> None:
        """What the broker said of copies under way: taken, taken for nobody, or not taken."""
        said: dict[int, ReasonCode] = {}
        while self._taken:
            message, reason = self._taken.popleft()
            said[message] = reason
        for probe_id, flight in self._flights.items():
            if flight.message not in said:
                continue
            reason = said[flight.message]
            self._denied = str(reason) if reason.is_failure else None
            if reason.value == _NO_SUBSCRIBERS:  # sooner again than where somebody has it
                patience_s = min(flight.patience_s, _UNHEARD_RESEND.limit_s(flight.copies))
                self._flights[probe_id] = replace(flight, patience_s=patience_s)

    def _say_online(self, online: bool) -> paho.MQTTMessageInfo:
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
        """The properties of a message, with its signature where the box has a key."""
        signed = properties(packet_type)
        if self._key is not None:
            signed.UserProperty = (PROPERTY, self._key.sign(topic, body))
        return signed

    def _why_not(self) -> MusterError:
        if self._refused is not None:
            return Unauthenticated(f"the {self.name} turns this box away: {self._refused}")
        return Unavailable(f"the {self.name} cannot be reached")

    def _make_client(self) -> paho.Client:
        client = self._broker.client()
        topic, offline = self._topics.status, self._status(False)
        will = self._signed(PacketTypes.WILLMESSAGE, topic, offline)
        client.will_set(topic, offline, qos=1, retain=True, properties=will)
        _reconnect_after(client, 1.0, _MAX_RECONNECT_S)
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
            self._refused = str(reason) if reason.value in _REFUSES_US else None
            self._give_up_patience()
            return
        self._refused = None
        self._connected_s = self._clock.monotonic_s()
        self._note_largest(getattr(properties, "MaximumPacketSize", None))
        client.subscribe([(topic, 1) for topic in (self._topics.receipt, *self._listeners)])

    def _on_connect_fail(self, *_arguments: Any) -> None:
        self._give_up_patience()

    def _on_subscribe(
        self, _client: paho.Client, _data: Any, _mid: int, reasons: list[ReasonCode], _props: Any
    ) -> None:
        if not reasons or reasons[0].is_failure:
            self._refused = f"it does not let the box read {self._topics.receipt}"
            return
        self._say_online(True)
        self._patient_until_s = 0.0
        self._ready.set()
        self._wake()

    def _note_largest(self, largest: int | None) -> None:
        if largest != self._largest and largest is not None:
            log.warning(
                "The %s takes packets of %d bytes at most: thumbnails that make a probe larger are "
                "left out",
                self.name,
                largest,
            )
        self._largest = largest

    def _on_disconnect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _props: Any
    ) -> None:
        self._ready.clear()
        now_s = self._clock.monotonic_s()
        if reason.value == _SESSION_TAKEN_OVER or now_s - self._connected_s < _SHORT_S:
            self._cut_short.append(now_s)
        if len(self._cut_short) < _CUT_SHORT or now_s - self._cut_short[0] > _CUT_SHORT_WITHIN_S:
            _reconnect_after(client, 1.0, _MAX_RECONNECT_S)
            return
        _reconnect_after(client, _CUT_SHORT_PAUSE_S, 2 * _CUT_SHORT_PAUSE_S)
        if now_s >= self._say_cut_short_s:
            self._say_cut_short_s = now_s + _SAY_AGAIN_S
            log.error(
                "The %s closes each connection soon after it was made, as it does when two boxes "
                "have one name: give each a `device` name of its own (this one is %r)",
                self.name,
                self._topics.device,
            )

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        try:
            self._take(message.topic, self._trusted(message))
        except ValidationError:
            log.warning("A message on %s is none and is left aside", message.topic)
        except UnicodeDecodeError:
            log.warning("A message of the %s has no topic and is left aside", self.name)
        except (Damaged, Forbidden) as error:
            self._say_forged(error)
        except Exception as error:  # it would end this thread, and the road in silence
            self._broken = error
            self._wake()

    def _trusted(self, message: paho.MQTTMessage) -> bytes:
        """What the server has said. Raises Forbidden or Damaged for what it did not say."""
        topic, payload = message.topic, bytes(message.payload)
        if self._key is None:
            return payload
        if topic == self._topics.of("config/desired"):
            return self._key.open(topic, payload) if payload else payload
        if not self._key.has_signed(topic, payload, signature_of(message.properties)):
            raise Forbidden(f"a message on {topic} is not signed with this box's key")
        return payload

    def _say_forged(self, error: MusterError) -> None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._say_forged_s:
            self._say_forged_s = now_s + _SAY_AGAIN_S
            log.error(
                "What comes over the %s is not all the server's, and that is left aside (%s). If "
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
        self._taken.append((mid, reason))
        nobody = reason.value == _NO_SUBSCRIBERS
        if nobody and not self._nobody_listens:
            log.warning(
                "The %s says that nobody listens for probes: is `match-server ingest` running?",
                self.name,
            )
        self._nobody_listens = nobody


def try_broker(url: str, topics: DeviceTopics, login: MqttLogin, timeout_s: float) -> None:
    """Connects as the agent would, but under another client id, so as not to push the agent off.

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


def _reconnect_after(client: paho.Client, first_s: float, longest_s: float) -> None:
    """Boxes that lost one broker in one moment do not all come back to it in one moment."""
    # The client doubles the first delay, and takes fractions, though it names whole seconds.
    first_s *= random.uniform(0.5, 1.5)  # noqa: S311
    longest_s = max(first_s, longest_s * random.uniform(0.5, 1.0))  # noqa: S311
    client.reconnect_delay_set(first_s, longest_s)  # type: ignore[arg-type]


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
