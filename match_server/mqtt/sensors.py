"""States of the sensors of Home Assistant and Double Take, and when they expire."""

import json
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from match_server.mqtt import doubletake, homeassistant
from match_server.mqtt.homeassistant import NOBODY, REPEAT_S, STRANGER, Discovery, state_topic
from match_server.schemas.events import CameraPresence, EventView
from match_server.services.presence import Presence
from shared.clock import rfc3339

_LAST_PERSON_S = 30.0
"""Without a new event, the last person of a camera becomes `nobody` after this time."""

_Camera = tuple[str, str]  # device, camera


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish."""

    topic: str
    payload: str
    retain: bool = False
    expiry_s: int | None = None  # after which the broker drops it for absent subscribers


@dataclass(slots=True)
class _Shown:
    """The state of the sensor "last person" of a camera."""

    event: str
    state: str
    attributes: str
    until: datetime


@dataclass(slots=True)
class _Sent:
    """What was sent over this connection; discarded with it."""

    configs: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    repeat_at: datetime | None = None
    counts: bool = False  # whether the counts of Double Take's cameras were set to 0


class Sensors:
    """Makes the messages for Home Assistant and Double Take; none where both are off.

    The client's thread calls `on_message`, the publisher's thread all others.
    """

    def __init__(
        self, presence: Presence, discovery: Discovery | None, *, double_take: bool
    ) -> None:
        self._presence = presence
        self._discovery = discovery
        self._double_take = double_take
        self._lock = threading.Lock()  # guards the next two
        self._retained: set[str] = set()  # topics of descriptions at the broker
        self._restarted = False  # whether Home Assistant has restarted
        self._sent = _Sent()
        self._shown: dict[_Camera, _Shown] = {}
        self._known: set[_Camera] = set()
        self._counted: dict[str, datetime] = {}  # Double Take's cameras: until when the count is 1

    def on_connect(self) -> None:
        """Forgets what was sent over the last connection."""
        self._sent = _Sent()
        with self._lock:
            self._retained.clear()

    def subscriptions(self) -> list[str]:
        if self._discovery is None:
            return []
        return [self._discovery.subscription(), f"{self._discovery.prefix}/status"]

    def will(self) -> Message | None:
        """Returns the message that the broker publishes when the connection is lost."""
        if self._discovery is None:
            return None
        return Message(homeassistant.AVAILABILITY, "offline", retain=True)

    def on_close(self) -> list[Message]:
        will = self.will()
        return [] if will is None else [will]

    def on_message(self, topic: str, payload: bytes) -> None:
        """Takes a message of one of the subscriptions."""
        if self._discovery is None:
            return
        with self._lock:
            if topic == f"{self._discovery.prefix}/status":
                self._restarted = self._restarted or payload == b"online"
            elif payload:
                self._retained.add(topic)
            else:
                self._retained.discard(topic)

    def on_event(self, event: EventView, now: datetime) -> list[Message]:
        """Returns the messages for an event. Only live events change a state."""
        camera = event.device, event.camera
        if camera not in self._known:
            self._presence.note_cameras([camera])
            self._known.add(camera)
        messages: list[Message] = []
        if event.live and self._double_take:
            messages += [Message(topic, text) for topic, text in doubletake.messages(event)]
            messages.append(Message(doubletake.count_topic(event.camera), "1"))
            self._counted[event.camera] = now + timedelta(seconds=doubletake.GONE_AFTER_S)
        if self._discovery is None:
            return messages
        shown = self._shown.get(camera)
        if event.live:
            self._shown[camera] = _shown(event, now)
        elif shown is not None and shown.event == event.id and _withdrawn(event):
            del self._shown[camera]
        return messages + self._last_person(camera)

    def on_time(self, now: datetime) -> list[Message]:
        """Returns the messages that are due now; called about twice a second."""
        messages = []
        for name, until in list(self._counted.items()):
            if now >= until:
                del self._counted[name]
                messages.append(Message(doubletake.count_topic(name), "0"))
        if self._double_take and not self._sent.counts:
            self._sent.counts = True  # a crashed process may have left a 1
            cameras = {item.camera for item in self._presence.now().items}
            gone = sorted(cameras - self._counted.keys())
            messages += [Message(doubletake.count_topic(name), "0") for name in gone]
        if self._discovery is None:
            return messages
        seen = self._presence.now().items
        self._known = {(item.device, item.camera) for item in seen}
        messages += self._descriptions(self._discovery, seen)
        with self._lock:
            restarted, self._restarted = self._restarted, False
        if restarted or self._sent.repeat_at is None or now >= self._sent.repeat_at:
            self._sent.states.clear()
            self._sent.repeat_at = now + timedelta(seconds=REPEAT_S)
            messages.append(Message(homeassistant.AVAILABILITY, "online", retain=True))
        for item in seen:
            camera = item.device, item.camera
            shown = self._shown.get(camera)
            if shown is not None and now >= shown.until:
                del self._shown[camera]
            messages += self._changed(dict(homeassistant.counts(item)))
            messages += self._last_person(camera)
        return messages

    def _descriptions(self, discovery: Discovery, seen: list[CameraPresence]) -> list[Message]:
        """Describes new cameras, and deletes the descriptions of removed cameras."""
        configs = discovery.configs([(item.device, item.camera) for item in seen])
        with self._lock:
            gone = (self._retained | self._sent.configs.keys()) - configs.keys()
            if self._restarted:
                self._sent.configs.clear()
        messages = [
            Message(topic, payload, retain=True)
            for topic, payload in configs.items()
            if self._sent.configs.get(topic) != payload
        ]
        self._sent.configs = configs
        return messages + [Message(topic, "", retain=True) for topic in sorted(gone)]

    def _last_person(self, camera: _Camera) -> list[Message]:
        shown = self._shown.get(camera)
        state, attributes = (NOBODY, "{}") if shown is None else (shown.state, shown.attributes)
        return self._changed(
            {
                state_topic(*camera, "attributes"): attributes,
                state_topic(*camera, "person"): state,
            }
        )

    def _changed(self, states: dict[str, str]) -> list[Message]:
        new = {
            topic: state for topic, state in states.items() if self._sent.states.get(topic) != state
        }
        self._sent.states |= new
        return [Message(topic, state) for topic, state in new.items()]


def _shown(event: EventView, now: datetime) -> _Shown:
    state = STRANGER if event.person is None else event.person.name
    attributes = {
        "event": event.id,
        "decision": event.decision,
        "person_id": None if event.person is None else event.person.id,
        "collection": event.collection,  # an id may be of several persons in different collections
        "similarity": event.similarity,
        "captured_at": rfc3339(event.captured_at),
        "expires_at": rfc3339(event.expires_at),
    }
    until = now + timedelta(seconds=_LAST_PERSON_S)
    return _Shown(event.id, state, json.dumps(attributes), until)


def _withdrawn(event: EventView) -> bool:
    return event.person_erased or event.merged_into is not None
