"""`match-server ingest`: probes from an MQTT broker into the database, none lost, none twice.

The broker keeps a probe until this process has acknowledged it, and it is acknowledged only after
its transaction is on the disk. The box keeps it until the receipt, published after that, names it.
Whoever dies in between, somebody still has the probe; the probe id makes the second copy harmless.
"""

import json
import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError

from match_server.api.live import refused
from match_server.api.requests import malformed
from match_server.logs import set_up_logging
from match_server.prepare import prepare
from match_server.schemas.events import ProbeResult
from match_server.services.wiring import build_services
from match_server.settings import Settings
from shared.errors import ConfigurationError, MalformedInput, MusterError
from shared.messages import ProbeMessage, ProbeReceipt, ReceiptMessage, StatusMessage
from shared.topics import DeviceTopics, any_device

log = logging.getLogger(__name__)

_GROUP = "muster-ingest"
_SESSION_S = 7 * 24 * 3600  # the broker keeps our subscription and unacknowledged probes this long
_IN_FLIGHT = 64  # probes that the broker sends ahead of our acknowledgements
_KEEPALIVE_S = 30
_LOOP_S = 0.5  # how long a stop may go unnoticed
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class Intake(Protocol):
    """What the consumer asks of the server."""

    def accept(self, message: ProbeMessage, *, site: str | None = None) -> ProbeResult: ...

    def note_status(self, site: str, message: StatusMessage) -> None: ...


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and how to sign in."""

    host: str
    port: int
    tls: bool
    username: str | None
    password: str | None
    client_id: str


def broker_of(settings: Settings) -> Broker:
    """The broker in the settings. Raises ConfigurationError for an address that is none."""
    parts = urlsplit(settings.broker)
    try:
        port = parts.port
        usable = parts.scheme in ("mqtt", "mqtts") and bool(parts.hostname) and not parts.username
    except ValueError:  # a port that is no number
        port, usable = None, False
    if not usable or parts.hostname is None:
        raise ConfigurationError(
            "the broker is given as mqtt://HOST:PORT or mqtts://HOST:PORT; user name and password "
            "are the settings broker_username and broker_password"
        )
    tls = parts.scheme == "mqtts"
    return Broker(
        host=parts.hostname,
        port=port or (8883 if tls else 1883),
        tls=tls,
        username=settings.broker_username,
        password=settings.broker_password,
        client_id=settings.ingest_client_id,
    )


class Consumer:
    """One member of the group that shares the probes among itself.

    All work is done in one thread, the one that calls `run`: while a probe is being stored the
    broker waits, with at most 64 more under way.
    """

    def __init__(self, broker: Broker, intake: Intake) -> None:
        self._broker = broker
        self._intake = intake
        self._stop = threading.Event()
        self._failures = 0
        self._ready: Callable[[], None] = lambda: None
        self._client = self._make_client()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Consume until `stop`; a broker that is away is tried again, with growing pauses."""
        self._ready = ready
        while not self._stop.is_set():
            try:
                self._client.connect(
                    self._broker.host,
                    self._broker.port,
                    keepalive=_KEEPALIVE_S,
                    clean_start=False,
                    properties=_connect_properties(),
                )
                self._consume()
            except OSError as error:
                log.warning("the broker does not answer", extra={"reason": str(error)})
            if not self._stop.is_set():
                self._failures += 1
                pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10))
                self._stop.wait(pause_s)

    def stop(self) -> None:
        """Let `run` return soon; may be called from a signal handler or another thread."""
        self._stop.set()

    def _consume(self) -> None:
        """Until the connection is gone, or we are to stop."""
        while not self._stop.is_set():
            if self._client.loop(_LOOP_S) != mqtt.MQTT_ERR_SUCCESS:
                log.warning("the connection to the broker is gone")
                return
        self._client.disconnect()

    def _make_client(self) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._broker.client_id,
            protocol=mqtt.MQTTv5,
            manual_ack=True,
            reconnect_on_failure=False,  # `run` does it, also when the database was away
        )
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._broker.password)
        if self._broker.tls:
            client.tls_set()
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
        client.subscribe([(any_device("probe", group=_GROUP), 1), (any_device("status"), 1)])

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
        except MusterError as error:
            # Without an acknowledgement the broker sends it again, once we are back.
            log.warning("a probe cannot be stored now", extra={"reason": error.message})
            client.disconnect()
            return
        client.ack(message.mid, message.qos)
        if receipt is not None:
            topic, body = receipt
            client.publish(topic, body, qos=1)

    def _take(self, message: mqtt.MQTTMessage) -> tuple[str, str] | None:
        """Store what has come; answers the receipt to be published and its topic."""
        try:
            topics, kind = DeviceTopics.parse(message.topic)
        except MalformedInput:
            log.warning("a message on a topic that is none of ours is left aside")
            return None
        if kind == "status":
            self._take_status(topics, message.payload)
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
        return topics.receipt, ReceiptMessage(receipts=[receipt]).model_dump_json()

    def _take_probe(self, topics: DeviceTopics, payload: bytes | bytearray) -> ProbeResult:
        try:
            probe = ProbeMessage.model_validate_json(payload)
        except ValidationError as error:
            return refused(_object(payload), malformed(error))
        if probe.device != topics.device:
            return ProbeResult(
                probe_id=probe.probe_id,
                status="refused",
                code="forbidden",
                message=f"device {topics.device!r} may not speak for {probe.device!r}",
            )
        return self._intake.accept(probe, site=topics.site)

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


def run_ingest(settings: Settings) -> None:
    """Consume until SIGTERM or SIGINT."""
    set_up_logging(settings.log_level)
    broker = broker_of(settings)
    prepare(settings)
    services = build_services(settings)
    services.first_start()
    consumer = Consumer(broker, services.probes)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: consumer.stop())
    try:
        consumer.run()
    finally:
        services.close()


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = _SESSION_S
    properties.ReceiveMaximum = _IN_FLIGHT
    return properties


def _object(payload: bytes | bytearray) -> object:
    try:
        return json.loads(payload)
    except ValueError:
        return None
