"""Publishes events at the broker: for boxes, Home Assistant and other subscribers."""

import contextlib
import logging
import math
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from match_server.db.leader_lock import LeaderLock
from match_server.mqtt.client import why_no_broker
from match_server.mqtt.sensors import Message, Sensors
from match_server.services.metrics import Metrics
from match_server.services.sightings.event_feed import EventFeed, EventNotice
from shared.clock import Clock
from shared.errors import MusterError
from shared.mqtt_client import Broker
from shared.wire.topics import DeviceTopics

log = logging.getLogger(__name__)

READER = "mqtt"
NO_SITE = "main"
"""The site of a device that uses HTTP only: the default of the agent."""

_POLL_S = 0.05
_LOOK_AGAIN_S = 0.5
_BATCH = 100
_ACK_S = 10.0
_KEEPALIVE_S = 30
_PAUSE_S = 1.0
_LATE_EXPIRY_S = 24 * 3600
_CURSOR_EVERY_S = 1.0


class _BrokerGone(Exception):
    """The connection is lost; the thread opens a new one."""


class Publisher:
    """The thread that publishes each write to an event once, while it holds the leader lock.

    Its queue is the table of events. An event counts as published when the broker has acknowledged
    it; after a crash the last second is published again, with the same ids and revisions. Each
    connection has a new client, and unsent events are read from the database again: otherwise old
    events could look live after the broker was away.
    """

    def __init__(
        self,
        broker: Broker,
        updates: EventFeed,
        leader: LeaderLock,
        clock: Clock,
        sensors: Sensors,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._broker = broker
        self._updates = updates
        self._leader = leader
        self._clock = clock
        self._sensors = sensors
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt-events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_ACK_S + _PAUSE_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._leader.acquire():
                    self._publish()
            except _BrokerGone as error:
                log.warning("Events wait for the broker", extra={"reason": str(error)})
            except MusterError as error:
                log.warning("Events wait", extra={"reason": error.message})
            except Exception:
                log.exception("Failed to publish events; connecting again")
            self._stop.wait(_PAUSE_S)
        self._leader.release()

    def _publish(self) -> None:
        """Publishes over one connection, until it or the leader lock is lost, or `close`."""
        client = self._connected()
        try:
            reached = self._start_from()
            noted, noted_s = reached, time.monotonic()
            looked_s = -_LOOK_AGAIN_S
            while not self._stop.wait(_POLL_S):
                if not client.is_connected():
                    raise _BrokerGone("the connection is lost")
                events, reached = self._updates.after(reached, _BATCH)
                self._send(client, [message for row in events for message in self._messages(row)])
                self._metrics.delivery("mqtt", "taken", len(events))
                now_s = time.monotonic()
                if reached != noted and now_s - noted_s >= _CURSOR_EVERY_S:
                    self._updates.note_reached(READER, reached)
                    noted, noted_s = reached, now_s
                if now_s - looked_s >= _LOOK_AGAIN_S:
                    looked_s = now_s
                    if not self._leader.acquire():
                        return
                    self._send(client, self._sensors.on_time(self._clock.now()))
            if reached != noted:
                self._updates.note_reached(READER, reached)
            self._send(client, self._sensors.on_close())
        finally:
            with contextlib.suppress(ValueError):
                client.disconnect()
            client.loop_stop()

    def _start_from(self) -> int:
        """Returns where the last publisher stopped; at the first start, the newest event."""
        reached = self._updates.reached(READER)
        if reached is None:
            reached = self._updates.newest()
            self._updates.note_reached(READER, reached)
        return reached

    def _connected(self) -> mqtt.Client:
        client = self._broker.client("-events", reconnect=False)
        ready = threading.Event()

        def connected(
            client: mqtt.Client, _d: object, _f: object, reason: object, _p: object
        ) -> None:
            if getattr(reason, "is_failure", False):
                log.error("The broker refused the connection", extra={"reason": str(reason)})
                return
            topics = self._sensors.subscriptions()
            if topics:
                client.subscribe([(topic, 1) for topic in topics])
            ready.set()

        client.on_connect = connected
        client.on_message = lambda _client, _data, message: self._sensors.on_message(
            message.topic, bytes(message.payload)
        )
        will = self._sensors.will()
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        self._sensors.on_connect()
        try:
            client.connect(
                self._broker.host, self._broker.port, keepalive=_KEEPALIVE_S, clean_start=True
            )
        except OSError as error:
            raise _BrokerGone(why_no_broker(error)) from error
        client.loop_start()
        if not ready.wait(_ACK_S):
            client.loop_stop()
            raise _BrokerGone("it does not accept the connection")
        return client

    def _messages(self, notice: EventNotice) -> list[Message]:
        event = notice.event
        topic = DeviceTopics(notice.site or NO_SITE, event.device).of("event")
        expiry_s = _LATE_EXPIRY_S
        if event.live:
            left = (event.expires_at - self._clock.now()).total_seconds()
            expiry_s = max(1, math.ceil(left))
        own = Message(topic, event.model_dump_json(), expiry_s=expiry_s)
        return [own, *self._sensors.on_event(event, self._clock.now())]

    def _send(self, client: mqtt.Client, messages: list[Message]) -> None:
        """Publishes, and waits until the broker has acknowledged."""
        sent = [
            client.publish(
                message.topic,
                message.payload,
                qos=1,
                retain=message.retain,
                properties=_expiring(message.expiry_s),
            )
            for message in messages
        ]
        deadline_s = time.monotonic() + _ACK_S
        for publication in sent:
            try:
                publication.wait_for_publish(max(0.0, deadline_s - time.monotonic()))
            except (RuntimeError, ValueError) as error:
                raise _BrokerGone(str(error)) from error
            if not publication.is_published():
                raise _BrokerGone("it does not acknowledge")


def _expiring(expiry_s: int | None) -> Properties | None:
    if expiry_s is None:
        return None
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.MessageExpiryInterval = expiry_s
    return properties
