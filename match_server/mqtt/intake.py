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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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

    def accept_all(
        self, messages: Sequence[ProbeMessage], *, site: str | None = None
    ) -> list[ProbeResult]:
        """Raises CollectionUnavailable if one of them, Unavailable if no probe can be stored."""
        ...

    def note_status(self, site: str, message: StatusMessage) -> None: ...


class Tracks(Protocol):
    """Takes the tracks that boxes report."""

    def note(self, messages: Sequence[TrackMessage]) -> object: ...


@dataclass(frozen=True, slots=True)
class _Sent:
    """A probe with its sender."""

    topics: DeviceTopics
    key: MessageKey | None  # that signed it
    probe: ProbeMessage | ProbeResult  # the result: it is refused


@dataclass(frozen=True, slots=True)
class _Messages:
    """Valid messages that have arrived, by kind, the oldest first."""

    probes: list[_Sent] = field(default_factory=list)
    tracks: list[TrackMessage] = field(default_factory=list)
    statuses: list[tuple[str, StatusMessage]] = field(default_factory=list)  # with their sites


class Consumer:
    """A member of the group of processes that share the probes.

    All work is done in the thread that calls `run`. All messages that have arrived are stored
    together; meanwhile the broker sends at most 64 more.
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
        self._arrived: list[mqtt.MQTTMessage] = []  # not stored yet; the oldest first
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
        """Consumes until the connection is lost or `stop` is called.

        Messages that have arrived and are not stored then come again: they are not acknowledged.
        """
        self._arrived.clear()
        while not self._stop.is_set():
            self._watchdog.alive()
            before = len(self._arrived)
            if self._client.loop(0.0 if before else _LOOP_S) != mqtt.MQTT_ERR_SUCCESS:
                log.warning("Lost the connection to the broker")
                return
            arrived = len(self._arrived)
            if before and (arrived == before or arrived >= _IN_FLIGHT):  # no more have come
                self._take_arrived()
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

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        if not self._stop.is_set():  # else the broker sends it to another process, or again later
            self._arrived.append(message)

    def _take_arrived(self) -> None:
        """Stores the messages that have arrived, acknowledges them and publishes receipts."""
        messages, self._arrived = self._arrived, []
        try:
            receipts = self._store(messages)
        except Unavailable as error:
            # Without an acknowledgement the broker sends them again after the reconnect.
            log.warning("Failed to store messages for now", extra={"reason": error.message})
            self._client.disconnect()
            return
        for message in messages:
            self._client.ack(message.mid, message.qos)
        for topic, body, properties in receipts:
            self._client.publish(topic, body, qos=1, properties=properties)

    def _store(self, messages: Sequence[mqtt.MQTTMessage]) -> list[Receipt]:
        """Stores messages. Returns the receipts to publish.

        Raises Unavailable where no message of any device can be stored now, and nothing else.
        """
        read = _Messages()
        for message in messages:
            with _skipping(message.topic):
                self._read(message, read)
        if read.tracks and self._tracks is not None:
            with _skipping("track"):
                self._tracks.note(read.tracks)
        results = self._store_probes(read.probes)
        # After the probes: a last will comes after the probes of its device.
        for site, status in read.statuses:
            with _skipping(DeviceTopics(site, status.device).status):
                self._intake.note_status(site, status)
        return _receipts(results)

    def _read(self, message: mqtt.MQTTMessage, read: _Messages) -> None:
        """Adds a message to those that were read, if it is valid."""
        try:
            topics, kind = DeviceTopics.parse(message.topic)
        except MalformedInput:
            log.warning("Ignored a message on an unknown topic")
            return
        key = None if self._keys is None else signer(self._keys, topics, message)
        if kind == "probe":
            read.probes.append(_Sent(topics, key, read_probe(topics, message.payload)))
        if kind == "track" and self._tracks is not None:
            track = read_message(TrackMessage, topics, message.payload)
            if track is not None:
                read.tracks.append(track)
        if kind == "status" and message.payload:  # empty: a retained status that was deleted
            status = read_message(StatusMessage, topics, message.payload)
            if status is not None:
                read.statuses.append((topics.site, status))

    def _store_probes(self, probes: Sequence[_Sent]) -> list[tuple[_Sent, ProbeResult]]:
        """Stores the probes of each site in one transaction. Returns results in their order."""
        results: dict[int, ProbeResult] = {}
        of_sites: dict[str, dict[int, ProbeMessage]] = {}
        for place, sent in enumerate(probes):
            if isinstance(sent.probe, ProbeResult):
                results[place] = sent.probe
            else:
                of_sites.setdefault(sent.topics.site, {})[place] = sent.probe
        for site, messages in of_sites.items():
            results |= self._store_list(site, messages)
        return [(probes[place], results[place]) for place in sorted(results)]

    def _store_list(self, site: str, messages: dict[int, ProbeMessage]) -> dict[int, ProbeResult]:
        """Stores probes together; one by one if a problem of one of them prevents that."""
        if len(messages) > 1:
            try:
                stored = self._intake.accept_all(list(messages.values()), site=site)
                return dict(zip(messages, stored, strict=True))
            except Exception as error:
                if isinstance(error, Unavailable) and not isinstance(error, CollectionUnavailable):
                    raise
        results = {}
        for place, message in messages.items():
            with _skipping(DeviceTopics(site, message.device).probe):
                try:
                    (results[place],) = self._intake.accept_all([message], site=site)
                except (MalformedInput, ModelMismatch) as error:  # for good
                    results[place] = ProbeResult.refused(message.probe_id, error)
        return results


@contextmanager
def _skipping(topic: str) -> Iterator[None]:
    """Logs an error of one message, so that the others are stored.

    Raises Unavailable where no message of any device can be stored now.
    """
    try:
        yield
    except MusterError as error:
        if isinstance(error, Unavailable) and not isinstance(error, CollectionUnavailable):
            raise
        extra = {"topic": topic, "reason": error.message}
        log.warning("Skipped a message; its sender may send it again", extra=extra)
    except Exception:  # a bug would end this process, and again at each start
        log.exception("Skipped a message because of a bug")


def read_probe(topics: DeviceTopics, payload: bytes | bytearray) -> ProbeMessage | ProbeResult:
    """The probe in a message, or its refusal."""
    try:
        probe = ProbeMessage.model_validate_json(payload)
    except ValidationError as error:
        return ProbeResult.refused(probe_id_of(_object(payload)), malformed(error))
    if probe.device != topics.device:
        why = f"device {topics.device!r} may not send for {probe.device!r}"
        return ProbeResult.refused(probe.probe_id, Forbidden(why))
    return probe


def _receipts(results: Sequence[tuple[_Sent, ProbeResult]]) -> list[Receipt]:
    """One message with receipts for each device (and key)."""
    of_devices: dict[tuple[DeviceTopics, str | None], tuple[_Sent, list[ProbeReceipt]]] = {}
    for sent, result in results:
        if not result.probe_id:
            log.warning("Ignored a probe without an id", extra={"device": sent.topics.device})
            continue
        receipt = ProbeReceipt(
            probe_id=result.probe_id,
            status=result.status,
            code=result.code,
            message=result.message,
        )
        sender = sent.topics, None if sent.key is None else sent.key.id
        of_devices.setdefault(sender, (sent, []))[1].append(receipt)
    messages = []
    for sent, receipts in of_devices.values():
        topic, body = sent.topics.receipt, ReceiptMessage(receipts=receipts).model_dump_json()
        messages.append((topic, body.encode(), signed(sent.key, topic, body.encode())))
    return messages


def _object(payload: bytes | bytearray) -> object:
    try:
        return from_json(bytes(payload))  # unlike `json`, this rejects half of a surrogate pair
    except ValueError:
        return None
