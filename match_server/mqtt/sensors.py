"""What is said besides the events themselves: sensors' states, and when they go back."""

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
"""Without another look, the last person of a camera is nobody after this."""

_Place = tuple[str, str]  # device, camera


@dataclass(frozen=True, slots=True)
class Message:
    """One publication."""

    topic: str
    payload: str
    retain: bool = False
    expiry_s: int | None = None  # the broker drops it for those who were away longer


@dataclass(slots=True)
class _Shown:
    """Whom the sensor "last person" of one camera shows."""

    event: str
    state: str
    attributes: str
    until: datetime


@dataclass(slots=True)
class _Said:
    """What was said over this connection; thrown away with it."""

    configs: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    repeat_at: datetime | None = None
    counts: bool = False  # of Double Take's cameras, that nobody is before


class Announcer:
    """Says what Home Assistant and Double Take listen to. Without these two it says nothing.

    `heard` is called by the client's thread, everything else by the publisher's.
    """

    def __init__(
        self, presence: Presence, discovery: Discovery | None, *, double_take: bool
    ) -> None:
        self._presence = presence
        self._discovery = discovery
        self._double_take = double_take
        self._lock = threading.Lock()  # guards the next two
        self._found: set[str] = set()  # descriptions that stand at the broker
        self._born = False  # Home Assistant has started anew
        self._said = _Said()
        self._shown: dict[_Place, _Shown] = {}
        self._known: set[_Place] = set()
        self._counted: dict[str, datetime] = {}  # Double Take's cameras, until when they count 1

    def begin(self) -> None:
        """A new connection: nothing was said over it yet."""
        self._said = _Said()
        with self._lock:
            self._found.clear()

    def subscriptions(self) -> list[str]:
        if self._discovery is None:
            return []
        return [self._discovery.subscription(), f"{self._discovery.prefix}/status"]

    def will(self) -> Message | None:
        """What the broker is to say when we are gone."""
        if self._discovery is None:
            return None
        return Message(homeassistant.AVAILABILITY, "offline", retain=True)

    def farewell(self) -> list[Message]:
        will = self.will()
        return [] if will is None else [will]

    def heard(self, topic: str, payload: bytes) -> None:
        """A message of one of our subscriptions."""
        if self._discovery is None:
            return
        with self._lock:
            if topic == f"{self._discovery.prefix}/status":
                self._born = self._born or payload == b"online"
            elif payload:
                self._found.add(topic)
            else:
                self._found.discard(topic)

    def of(self, event: EventView, now: datetime) -> list[Message]:
        """What follows of an event. Only live ones change a state: nothing late opens a door."""
        place = event.device, event.camera
        if place not in self._known:
            self._presence.note_cameras([place])
            self._known.add(place)
        said: list[Message] = []
        if event.live and self._double_take:
            said += [Message(topic, text) for topic, text in doubletake.messages(event)]
            said.append(Message(doubletake.count_topic(event.camera), "1"))
            self._counted[event.camera] = now + timedelta(seconds=doubletake.GONE_AFTER_S)
        if self._discovery is None:
            return said
        shown = self._shown.get(place)
        if event.live:
            self._shown[place] = _shown(event, now)
        elif shown is not None and shown.event == event.id and _forgotten(event):
            del self._shown[place]
        return said + self._last_person(place)

    def due(self, now: datetime) -> list[Message]:
        """What is to be said because time has passed; asked for about twice a second."""
        said = []
        for camera, until in list(self._counted.items()):
            if now >= until:
                del self._counted[camera]
                said.append(Message(doubletake.count_topic(camera), "0"))
        if self._double_take and not self._said.counts:
            self._said.counts = True  # a process that died may have left a 1 behind
            cameras = {one.camera for one in self._presence.now().items}
            gone = sorted(cameras - self._counted.keys())
            said += [Message(doubletake.count_topic(camera), "0") for camera in gone]
        if self._discovery is None:
            return said
        seen = self._presence.now().items
        self._known = {(one.device, one.camera) for one in seen}
        said += self._descriptions(self._discovery, seen)
        with self._lock:
            born, self._born = self._born, False
        if born or self._said.repeat_at is None or now >= self._said.repeat_at:
            self._said.states.clear()
            self._said.repeat_at = now + timedelta(seconds=REPEAT_S)
            said.append(Message(homeassistant.AVAILABILITY, "online", retain=True))
        for one in seen:
            place = one.device, one.camera
            shown = self._shown.get(place)
            if shown is not None and now >= shown.until:
                del self._shown[place]
            said += self._changed(dict(homeassistant.counts(one)))
            said += self._last_person(place)
        return said

    def _descriptions(self, discovery: Discovery, seen: list[CameraPresence]) -> list[Message]:
        """Describe what is new or was lost, take back what is gone."""
        configs = discovery.configs([(one.device, one.camera) for one in seen])
        with self._lock:
            gone = (self._found | self._said.configs.keys()) - configs.keys()
            if self._born:
                self._said.configs.clear()
        said = [
            Message(topic, payload, retain=True)
            for topic, payload in configs.items()
            if self._said.configs.get(topic) != payload
        ]
        self._said.configs = configs
        return said + [Message(topic, "", retain=True) for topic in sorted(gone)]

    def _last_person(self, place: _Place) -> list[Message]:
        shown = self._shown.get(place)
        state, attributes = (NOBODY, "{}") if shown is None else (shown.state, shown.attributes)
        return self._changed(
            {
                state_topic(*place, "attributes"): attributes,
                state_topic(*place, "person"): state,
            }
        )

    def _changed(self, states: dict[str, str]) -> list[Message]:
        new = {
            topic: state for topic, state in states.items() if self._said.states.get(topic) != state
        }
        self._said.states |= new
        return [Message(topic, state) for topic, state in new.items()]


def _shown(event: EventView, now: datetime) -> _Shown:
    state = STRANGER if event.person is None else event.person.name
    attributes = {
        "event": event.id,
        "decision": event.decision,
        "person_id": None if event.person is None else event.person.id,
        "collection": event.collection,  # without which an id may be of several persons
        "similarity": event.similarity,
        "captured_at": rfc3339(event.captured_at),
        "expires_at": rfc3339(event.expires_at),
    }
    until = now + timedelta(seconds=_LAST_PERSON_S)
    return _Shown(event.id, state, json.dumps(attributes), until)


def _forgotten(event: EventView) -> bool:
    return event.person_erased or event.merged_into is not None
