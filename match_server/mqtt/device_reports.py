"""What boxes and server say about the boxes themselves: health in, configurations out and back.

A connection of its own beside the consumer's: health must not wait behind probes, and is not worth
making them wait. It is answered at once, because a box measures its clock by the answer.
"""

import logging
import threading
import time
from typing import Any, Final, TypeVar

import paho.mqtt.client as mqtt
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError

from match_server.mqtt.client import why_no_broker
from match_server.mqtt.signing import signed, signer
from match_server.services.devices.configurations import Configurations, DeviceConfig
from match_server.services.devices.health import HealthReports
from match_server.services.devices.message_keys import MessageKeys
from shared.errors import Damaged, MalformedInput, MusterError
from shared.mqtt_client import Broker, connect_properties
from shared.wire.device import DesiredConfig, HealthMessage, ReportedConfig
from shared.wire.message_keys import MessageKey
from shared.wire.topics import DeviceTopics, any_device

log = logging.getLogger(__name__)

_GROUP: Final = "muster-devices"
_KEEPALIVE_S: Final = 30
_LOOP_S: Final = 0.5
_LOOK_S: Final = 1.0  # between looks at what is desired in the database
_PAUSE_S: Final = 5.0

Said = TypeVar("Said", HealthMessage, ReportedConfig)


class DeviceDesk:
    """Takes health and reports in, and keeps `config/desired` at the broker as the database says.

    What the broker holds is learnt from the broker itself, which sends retained messages to whoever
    subscribes; so nothing is remembered between runs, and several desks do no harm. All work is
    done in the thread that calls `run`.
    """

    def __init__(
        self,
        broker: Broker,
        health: HealthReports,
        configurations: Configurations,
        keys: MessageKeys | None = None,
    ) -> None:
        """With `keys`, signatures are asked for where they say so."""
        self._broker = broker
        self._keys = keys
        self._health = health
        self._configurations = configurations
        self._stop = threading.Event()
        self._retained: dict[DeviceTopics, bytes] = {}  # `config/desired`, as the broker holds it
        self._looked_s = 0.0
        self._client = broker.client("-devices", reconnect=False)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message

    def run(self) -> None:
        """Until `stop`; a broker that is away is tried again."""
        while not self._stop.is_set():
            try:
                self._client.connect(
                    self._broker.host,
                    self._broker.port,
                    _KEEPALIVE_S,
                    properties=connect_properties(),
                )
                self._serve()
            except OSError as error:
                log.warning(
                    "no desk for devices: no broker", extra={"reason": why_no_broker(error)}
                )
            except Exception:  # a fault of this program: it would end this thread for good
                log.exception("the desk for devices failed; it begins anew")
            self._stop.wait(_PAUSE_S)

    def stop(self) -> None:
        """Let `run` return soon; from any thread."""
        self._stop.set()

    def _serve(self) -> None:
        self._retained.clear()
        self._looked_s = time.monotonic()  # first hear what the broker holds
        while not self._stop.is_set():
            if self._client.loop(_LOOP_S) != mqtt.MQTT_ERR_SUCCESS:
                return
            if time.monotonic() - self._looked_s >= _LOOK_S:
                self._publish_desired()
                self._looked_s = time.monotonic()
        self._client.disconnect()

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: Any, reason: ReasonCode, _props: Any
    ) -> None:
        if reason.is_failure:
            log.error("the broker refuses the desk for devices", extra={"reason": str(reason)})
            return
        client.subscribe(
            [
                (any_device("health", group=_GROUP), 0),
                (any_device("config/desired"), 1),
                (any_device("config/reported"), 1),
            ]
        )

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topics, kind = DeviceTopics.parse(message.topic)
        except MalformedInput:
            return
        try:
            if kind == "config/desired":
                self._note_retained(topics, bytes(message.payload))
                return
            key = None if self._keys is None else signer(self._keys, topics, message)
            if kind == "health":
                self._take_health(topics, bytes(message.payload), key)
            elif message.payload:
                self._take_report(topics, bytes(message.payload), retained=message.retain)
        except MusterError as error:  # health comes again; a report is retained
            extra = {"device": topics.device, "reason": error.message}
            log.warning("what a device says of itself cannot be kept now", extra=extra)
        except Exception:  # it would stand before what all other devices say
            log.exception("what a device says of itself is left aside: a fault of this program")

    def _note_retained(self, topics: DeviceTopics, body: bytes) -> None:
        if body:
            self._retained[topics] = body
        else:
            self._retained.pop(topics, None)

    def _take_health(self, topics: DeviceTopics, payload: bytes, key: MessageKey | None) -> None:
        message = _read(HealthMessage, topics, payload)
        if message is not None:
            answer = self._health.take(message, site=topics.site)
            topic, body = topics.of("health/answer"), answer.model_dump_json().encode()
            self._client.publish(topic, body, qos=0, properties=signed(key, topic, body))

    def _take_report(self, topics: DeviceTopics, payload: bytes, *, retained: bool) -> None:
        report = _read(ReportedConfig, topics, payload)
        if report is not None:
            self._configurations.report(report, site=topics.site, retained=retained)

    def _publish_desired(self) -> None:
        try:
            wanted = self._configurations.desired()
        except MusterError as error:
            log.warning("configurations cannot be read now", extra={"reason": error.message})
            return
        known = {DeviceTopics(one.site, one.device): one for one in wanted}
        for topics, one in known.items():
            self._publish_one(topics, one)
        for topics in self._retained.keys() - known.keys():  # of a device that was forgotten
            self._client.publish(topics.of("config/desired"), b"", qos=1, retain=True)

    def _publish_one(self, topics: DeviceTopics, wanted: DeviceConfig) -> None:
        """Sealed for a device that signs: the passwords of its cameras stand in it."""
        topic, body = topics.of("config/desired"), wanted.desired.model_dump_json().encode()
        key = None
        if self._keys is not None and wanted.message_key is not None:
            key = self._keys.of(topics, wanted.message_key)
            if key is None:  # revoked: the box has to be enrolled again before it hears anything
                return
        if _held(self._retained.get(topics), topic, key) != wanted.desired:
            sealed = body if key is None else key.seal(topic, body)
            self._client.publish(topic, sealed, qos=1, retain=True)


def _read(kind: type[Said], topics: DeviceTopics, payload: bytes) -> Said | None:
    """The message; None, with a line in the log, where it is none or is about another device."""
    try:
        said = kind.model_validate_json(payload)
    except ValidationError:
        log.warning("a message about a device is none", extra={"device": topics.device})
        return None
    if said.device != topics.device:
        log.warning("a device speaks for another", extra={"device": topics.device})
        return None
    return said


def _held(retained: bytes | None, topic: str, key: MessageKey | None) -> DesiredConfig | None:
    """The configuration that the broker holds, if it is in the form that the device takes."""
    if retained is None:
        return None
    try:
        return DesiredConfig.model_validate_json(
            retained if key is None else key.open(topic, retained)
        )
    except (ValidationError, Damaged):
        return None
