"""What a hostile device may publish: mutations of valid messages, at a real broker and server.

A witness, a box that does nothing wrong, sends probes and health between them: each of its probes
must be receipted, each of its health messages answered. No message may make the server stumble over
a fault of its own.
"""

import base64
import json
import logging
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from demo.processes import broker, find_broker
from match_server.container import Services, build_services
from match_server.mqtt.device_reports import DeviceReports
from match_server.process.bootstrap import prepare
from match_server.process.ingest import Consumer, broker_of
from match_server.schemas.devices import DeviceQuery, LedgerQuery
from match_server.schemas.events import EventQuery
from match_server.services.faces.face_engine import FaceEngine
from match_server.settings import Settings
from shared.ids import new_id
from shared.wire.topics import DeviceTopics
from tests.support.waiting import TIMEOUT_S, wait_until

MODEL = "attack-512@1"
ATTACKER = DeviceTopics("home", "attacker")
WITNESS = DeviceTopics("home", "witness")
BLOCK = 100  # hostile messages between two looks at the witness
_KINDS = ("probe", "health", "config/reported", "status", "track")

_ODD_TEXTS = (
    "",
    "\x00",
    "a\x00b",
    "\ud800",
    "\udfff\ud800",
    "\u202e",
    "\ufeff",
    "'; DROP TABLE probes; --",
    "../../etc/passwd",
    "%s%n{0}",
    "x" * 70_000,
    "\U0001f600",
    "witness",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59-23:59",
)
_ODD_NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, -1e308)
_ODD_WORDS = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"0x10", b'"\\ud800"', b'"\\u0000"')


def valid_messages(device: str, now: datetime, model_id: str = MODEL) -> dict[str, dict[str, Any]]:
    """Returns a valid message of each kind that a device may send."""
    at, track = now.isoformat(), new_id()
    vector = np.random.default_rng(7).standard_normal(512)
    template = (vector / np.linalg.norm(vector)).astype("<f2").tobytes()
    camera = {"camera": "front", "state": "running", "fps": 5.0, "frames": 9, "dropped": 0}
    days = [{"camera": "front", "day": f"{now:%Y-%m-%d}", "tracks": 3, "with_probe": 1}]
    factor = {"name": "sharpness", "value": 0.5, "low": 0.2, "high": 1.0, "passed": True}
    local = {"collection": "default", "decision": "identified", "person": "eileen", "seq": 3}
    return {
        "probe": {
            "schema_version": 1,
            "probe_id": new_id(),
            "device": device,
            "camera": "front",
            "sequence": 1,
            "captured_at": at,
            "track_id": track,
            "model_id": model_id,
            "template": base64.b64encode(template).decode(),
            "quality": {"score": 0.8, "factors": [factor]},
            "pose": {"yaw": 1.0, "pitch": 2.0, "roll": 3.0},
            "liveness": 0.9,
            "detection_score": 0.95,
            "shots": 1,
            "local": {**local, "similarity": 0.6},
            "box": [10.0, 20.0, 110.0, 140.0],
            "frame_size": [1280, 720],
            "thumbnail": base64.b64encode(b"\xff\xd8\xff\xe0 no more of it").decode(),
        },
        "health": {
            "schema_version": 1,
            "device": device,
            "at": at,
            "version": "1",
            "model_id": model_id,
            "uptime_s": 5.0,
            "processors": 4,
            "memory_bytes": 1000,
            "waiting": 0,
            "dropped": 0,
            "gave_up": ["liveness"],
            "problems": ["the lens is dirty"],
            "gallery_seq": {"default": 3},
            "cameras": [
                {**camera, "last_frame_at": at, "error": "none"},
                {**camera, "camera": "back"},
            ],
            "ledger": [{**one, "reasons": {"pose": 2}} for one in days],
        },
        "config/reported": {
            "schema_version": 1,
            "device": device,
            "revision": 1,
            "state": "applied",
            "tried": 1,
            "message": "as you wish",
            "config": {"shots": {"gate": "doorway"}, "cameras": [{"name": "front"}]},
            "at": at,
        },
        "status": {"schema_version": 1, "device": device, "online": True},
        "track": {
            "schema_version": 1,
            "device": device,
            "camera": "front",
            "track_id": track,
            "state": "began",
            "at": at,
            "began_at": at,
            "in_view": 1,
            "probes": 0,
            "reasons": ["pose"],
        },
    }


@dataclass(frozen=True, slots=True)
class Hostile:
    """A publication of the attacker."""

    topic: str
    payload: bytes
    retain: bool = False


def hostile_messages(
    chance: random.Random, now: datetime, model_id: str = MODEL
) -> Iterator[Hostile]:
    """Yields mutations of valid messages, and bytes that are no message, without end."""
    while True:
        kind = chance.choice(_KINDS)
        body: Any = valid_messages(ATTACKER.device, now, model_id)[kind]
        for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
            body = _mutated(body, chance)
        if chance.random() < 0.2:
            body = _mistyped(body, chance)
        payload = json.dumps(body).encode()
        if chance.random() < 0.3:
            payload = _broken(payload, chance)
        topics = WITNESS if chance.random() < 0.1 else ATTACKER
        if topics is WITNESS:  # the message of another device under its topic
            payload = payload.replace(b"0", b"1", chance.randrange(3))
        topic = f"muster/v1/{topics.site}/{topics.device}/{kind}"
        if chance.random() < 0.05:
            topic = chance.choice(
                (
                    f"muster/v1/home/\u202e/{kind}",
                    f"muster/v1/{'x' * 100}/y/{kind}",
                    f"muster/v1/home//{kind}",
                    f"muster/v1//attacker/{kind}",
                )
            )
        yield Hostile(topic, payload, retain=chance.random() < 0.1)


def _mutated(value: Any, chance: random.Random) -> Any:
    """Returns the message with one change, at some depth."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        odd = chance.random()
        if odd < 0.1:
            return {key: one for key, one in value.items() if key != name}
        if odd < 0.2:
            return {**value, chance.choice(_ODD_TEXTS): value[name]}
        return {**value, name: _mutated(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        if chance.random() < 0.1:
            return value * chance.choice((2, 50))
        return [*value[:place], _mutated(value[place], chance), *value[place + 1 :]]
    choice = chance.random()
    if choice < 0.45:
        return chance.choice(_ODD_TEXTS)
    if choice < 0.75:
        return chance.choice(_ODD_NUMBERS)
    if choice < 0.85:
        return _nested(value, chance.choice((3, 60, 300)))
    return chance.choice((None, True, [], {}, [value], {"a": value}))


def _mistyped(value: Any, chance: random.Random) -> Any:
    """Returns the message with characters that no database stores, in one of its texts."""
    if isinstance(value, dict) and value:
        name = chance.choice(list(value))
        return {**value, name: _mistyped(value[name], chance)}
    if isinstance(value, list) and value:
        return [_mistyped(value[0], chance), *value[1:]]
    return f"{value}"[:60] + chance.choice(_ODD_TEXTS[1:5]) if isinstance(value, str) else value


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _broken(payload: bytes, chance: random.Random) -> bytes:
    """Returns the text as invalid JSON, or with changed bytes."""
    place = chance.randrange(len(payload) + 1)
    head, tail = payload[:place], payload[place:]
    return chance.choice(
        (
            head,
            b"",
            head + bytes([chance.randrange(256)]) + tail[1:],
            head + b"\xed\xa0\x80" + tail,  # half of a surrogate pair in UTF-8
            head + b"\x00" + tail,
            payload + payload,
            b"[" * 5000,
            b"\xef\xbb\xbf" + payload,
            payload.decode().encode("utf-16"),
            head + chance.choice(_ODD_WORDS) + tail,
            _with_odd_value(payload, chance),
        )
    )


def _with_odd_value(payload: bytes, chance: random.Random) -> bytes:
    colon = payload.find(b":", chance.randrange(len(payload)))
    end = payload.find(b",", colon)
    if min(colon, end) < 0:
        return payload
    return payload[: colon + 1] + chance.choice(_ODD_WORDS) + payload[end:]


class Stumbles(logging.Handler):
    """Collects the bugs that the program logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None:
            self.seen.append(logging.Formatter().format(record))


class Far:
    """A client at the broker that publishes, and collects the receipts of a second device."""

    def __init__(self, port: int) -> None:
        self.receipts: dict[str, str] = {}  # status by probe id
        self.answers: list[str] = []
        subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "far", protocol=mqtt.MQTTv5)
        self._client.max_inflight_messages_set(500)
        topics = [(WITNESS.receipt, 1), (WITNESS.of("health/answer"), 1)]
        self._client.on_connect = lambda client, *_: client.subscribe(topics)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if not subscribed.wait(TIMEOUT_S):
            raise AssertionError("the broker does not let us subscribe")

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        body = json.loads(message.payload)
        if message.topic == WITNESS.receipt:
            self.receipts |= {one["probe_id"]: one["status"] for one in body["receipts"]}
        else:
            self.answers.append(body["answers"])


def attack(
    far: Far,
    now: datetime,
    seed: int,
    *,
    blocks: int,
    seconds: float = 1e9,
    model_id: str = MODEL,
    look: Callable[[], object] = lambda: None,
) -> int:
    """Publishes blocks of hostile messages; answers how many blocks.

    After each, somebody may `look` at what the devices have said. Raises AssertionError when the
    witness is not heard any more.
    """
    messages = hostile_messages(random.Random(seed), now, model_id)
    until_s = time.monotonic() + seconds
    sent = 0
    while sent < blocks and (sent == 0 or time.monotonic() < until_s):
        for _ in range(BLOCK):
            one = next(messages)
            far.say(one.topic, one.payload, retain=one.retain)
        sent += 1
        own = valid_messages(WITNESS.device, now, model_id)
        probe = {**own["probe"], "sequence": sent}
        answered = len(far.answers)
        far.say(WITNESS.probe, json.dumps(probe).encode())
        far.say(WITNESS.of("health"), json.dumps(own["health"]).encode())
        wait_until(lambda: probe["probe_id"] in far.receipts, f"a receipt after block {sent}")  # noqa: B023
        wait_until(lambda: len(far.answers) > answered, f"an answer after block {sent}")  # noqa: B023
        if far.receipts[probe["probe_id"]] != "accepted":
            raise AssertionError("the witness's probe was not accepted")
        look()
    return sent


def look_at(services: Services) -> None:
    """Reads all reports of devices, as the pages and the API do."""
    for one in services.devices.page(DeviceQuery(size=1000)).items:
        services.devices.get(one.name)
        services.ledgers.of(one.name, LedgerQuery())
        services.configurations.get(one.name)
    services.presence.now()
    services.configurations.desired()
    services.events.page(EventQuery(size=1000))


@contextmanager
def server_of(settings: Settings, services: Services) -> Iterator[Stumbles]:
    """Runs `match-server ingest` in threads. Raises AssertionError if a thread ends early."""
    stumbles = Stumbles()
    logging.getLogger("match_server").addHandler(stumbles)
    at = broker_of(settings)
    consumer = Consumer(at, services.probes, services.presence)
    desk = DeviceReports(at, services.health_reports, services.configurations)
    ready = threading.Event()
    threads = [
        threading.Thread(target=consumer.run, args=(ready.set,)),
        threading.Thread(target=desk.run),
    ]
    for thread in threads:
        thread.start()
    try:
        if not ready.wait(TIMEOUT_S):
            raise AssertionError("the consumer does not reach the broker")
        yield stumbles
        if not all(thread.is_alive() for thread in threads):
            raise AssertionError("a thread of the server ended")
    finally:
        consumer.stop()
        desk.stop()
        for thread in threads:
            thread.join(TIMEOUT_S)
        logging.getLogger("match_server").removeHandler(stumbles)


def run(seconds: float, seed: int) -> str:
    """Attacks a server and broker of its own for about that long; a line of figures.

    Raises AssertionError with what was found.
    """
    program = find_broker()
    if program is None:
        return "mqtt: no mosquitto on this machine"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(broker(folder, program))
        settings = Settings(data_dir=folder / "data", broker=url)
        prepare(settings)
        faces = FaceEngine(MODEL, 512, _no_models, settings.picture_limits)
        services = build_services(settings, faces=faces)
        stack.callback(services.close)
        services.first_start()
        far = Far(int(url.rpartition(":")[2]))
        stack.callback(far.close)
        stumbles = stack.enter_context(server_of(settings, services))
        blocks = attack(
            far,
            datetime.now(UTC),
            seed,
            blocks=10**9,
            seconds=seconds,
            look=lambda: look_at(services),
        )
    if stumbles.seen:
        raise AssertionError(f"{len(stumbles.seen)} faults of the program:\n{stumbles.seen[0]}")
    return f"mqtt: {blocks * BLOCK} hostile messages, {blocks} probes of the witness receipted"


def _no_models() -> Any:
    raise AssertionError("no picture is looked at here")
