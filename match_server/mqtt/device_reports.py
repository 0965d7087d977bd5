"""Messages about the boxes themselves: health, desired and reported configurations.

They have a connection of their own, so that health and probes do not wait for each other. A health
message gets its answer at once, because the box measures its clock by it.
"""

import logging
import threading
import time
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError

from match_server.mqtt.client import why_no_broker
from match_server.mqtt.reading import read_message
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
_LOOK_S: Final = 1.0  # between reads of the desired configurations in the database
_PAUSE_S: Final = 5.0


class DeviceReports:
    """Takes health and reports, and keeps `config/desired` at the broker as in the database.

    The broker sends its retained messages to every subscriber, so nothing has to be remembered
    between runs, and several processes may do this at once. All work is done in the thread that
    calls `run`.
    """

    def __init__(
        self,
        broker: Broker,
        health: HealthReports,
        configurations: Configurations,
        keys: MessageKeys | None = None,
    ) -> None:
        """With `keys`, signatures are checked."""
        self._broker = broker
        self._keys = keys
        self._health = health
        self._configurations = configurations
        self._stop = threading.Event()
        self._retained: dict[DeviceTopics, bytes] = {}  # `config/desired` at the broker
        self._looked_s = 0.0
        self._client = broker.client("-devices", reconnect=False)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message

    def run(self) -> None:
        """Serves until `stop`; connects again when the broker is away."""
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
                    "Device reports wait for the broker",
                    extra={"reason": why_no_broker(error)},
                )
            except Exception:  # a bug would end this thread for good
                log.exception("Device reports failed; connecting again")
            self._stop.wait(_PAUSE_S)

    def stop(self) -> None:
        """Makes `run` return soon; may be called from any thread."""
        self._stop.set()

    def _serve(self) -> None:
        self._retained.clear()
        self._looked_s = time.monotonic()  # first receive the retained messages
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
            log.error(
                "The broker refused device reports",
                extra={"reason": str(reason)},
            )
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
            log.warning("Failed to store a device report for now", extra=extra)
        except Exception:  # a bug would stop the reports of all devices
            log.exception("Skipped a device report because of a bug")

    def _note_retained(self, topics: DeviceTopics, body: bytes) -> None:
        if body:
            self._retained[topics] = body
        else:
            self._retained.pop(topics, None)

    def _take_health(self, topics: DeviceTopics, payload: bytes, key: MessageKey | None) -> None:
        message = read_message(HealthMessage, topics, payload)
        if message is not None:
            answer = self._health.take(message, site=topics.site)
            topic, body = topics.of("health/answer"), answer.model_dump_json().encode()
            self._client.publish(topic, body, qos=0, properties=signed(key, topic, body))

    def _take_report(self, topics: DeviceTopics, payload: bytes, *, retained: bool) -> None:
        report = read_message(ReportedConfig, topics, payload)
        if report is not None:
            self._configurations.report(report, site=topics.site, retained=retained)

    def _publish_desired(self) -> None:
        try:
            rows = self._configurations.desired()
        except MusterError as error:
            log.warning("Failed to read configurations for now", extra={"reason": error.message})
            return
        known = {DeviceTopics(row.site, row.device): row for row in rows}
        for topics, row in known.items():
            self._publish_config(topics, row)
        for topics in self._retained.keys() - known.keys():  # of a deleted device
            self._client.publish(topics.of("config/desired"), b"", qos=1, retain=True)

    def _publish_config(self, topics: DeviceTopics, row: DeviceConfig) -> None:
        """Publishes a configuration, encrypted for a device that signs: it holds passwords."""
        topic, body = topics.of("config/desired"), row.desired.model_dump_json().encode()
        key = None
        if self._keys is not None and row.message_key is not None:
            key = self._keys.of(topics, row.message_key)
            if key is None:  # revoked: the box has to be enrolled again
                return
        if _current(self._retained.get(topics), topic, key) != row.desired:
            sealed = body if key is None else key.seal(topic, body)
            self._client.publish(topic, sealed, qos=1, retain=True)


def _current(retained: bytes | None, topic: str, key: MessageKey | None) -> DesiredConfig | None:
    """Returns the retained configuration, if it is in the form that the device accepts."""
    if retained is None:
        return None
    try:
        return DesiredConfig.model_validate_json(
            retained if key is None else key.open(topic, retained)
        )
    except (ValidationError, Damaged):
        return None
