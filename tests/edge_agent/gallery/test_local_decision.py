"""Decisions on the device: added to probes for the outbox, and sent as notifications."""

import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Queue

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.config.key_file import device_keys
from edge_agent.config.loading import settings_of
from edge_agent.delivery.fallback import FallbackTransport
from edge_agent.delivery.http import HttpTransport
from edge_agent.delivery.mqtt import MqttTransport
from edge_agent.diagnostics.gallery_check import examine_galleries
from edge_agent.gallery.edge_gallery import LocalResult
from edge_agent.gallery.encrypted_store import Store
from edge_agent.gallery.local_decision import Hook, Recognizer
from edge_agent.gallery.manager import Galleries
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.probe import Probe
from shared.encryption import Key
from shared.errors import ConfigurationError
from shared.mqtt_client import MqttLogin
from shared.wire.change_feed import FeedPerson
from shared.wire.messages import LocalEventMessage, ProbeMessage
from shared.wire.template import Template
from shared.wire.topics import DeviceTopics
from tests.support.edge_galleries import MovableClock, changes, gallery, head, part, person
from tests.support.fake_servers import Broker
from tests.support.probes import make_probe

AMY = FeedPerson(number=1, id="amy", name="Amy Farrah")


class FixedGallery:
    """A gallery that returns one decision."""

    def __init__(self, answer: LocalResult | None) -> None:
        self.answer = answer
        self.calls = 0

    def decide(self, template: Template) -> LocalResult | None:
        self.calls += 1
        return self.answer


KNOWN = LocalResult("staff", "identified", AMY, 0.8, 7)
STRANGER = LocalResult("visitors", "unknown", None, None, 9)


class Notifications:
    """Collects the notifications, and what the outbox held at each."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.messages: list[LocalEventMessage] = []
        self.waiting: list[int] = []

    def __call__(self, message: LocalEventMessage) -> None:
        self.messages.append(message)
        self.waiting.append(self.outbox.counts().waiting)


def sent(outbox: Outbox) -> list[ProbeMessage]:
    return [ProbeMessage.model_validate_json(one.body) for one in outbox.pending()]


def recognizer(
    outbox: Outbox,
    *galleries: FixedGallery,
    active: bool = True,
    tell: Sequence[Notifications] = (),
) -> Recognizer:
    return Recognizer(outbox, galleries, "box-1", lambda: active, tell)


def test_a_probe_carries_the_strongest_decision(outbox: Outbox) -> None:
    assert recognizer(outbox, FixedGallery(STRANGER), FixedGallery(KNOWN)).put([make_probe()]) == 1
    (message,) = sent(outbox)
    assert message.local is not None
    assert message.local.model_dump() == {
        "collection": "staff",
        "decision": "identified",
        "person": "amy",
        "similarity": 0.8,
        "seq": 7,
    }


def test_nothing_is_asked_while_the_server_decides(outbox: Outbox) -> None:
    notifications, known = Notifications(outbox), FixedGallery(KNOWN)
    recognizer(outbox, known, active=False, tell=[notifications]).put([make_probe()])
    assert (known.calls, notifications.messages) == (0, [])
    assert sent(outbox)[0].local is None


def test_a_gallery_that_cannot_decide_takes_nothing_from_the_probe(outbox: Outbox) -> None:
    notifications = Notifications(outbox)
    recognizer(outbox, FixedGallery(None), tell=[notifications]).put([make_probe()])
    assert sent(outbox)[0].local is None
    assert notifications.messages == []


def test_the_log_has_one_line_where_an_outage_begins_and_one_where_it_ends(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    away = iter([False, True, True, True, False, False])
    decider = Recognizer(outbox, [FixedGallery(KNOWN)], "box-1", lambda: next(away))
    with caplog.at_level("INFO"):
        for _ in range(6):
            decider.put([make_probe()])
    assert [record.getMessage() for record in caplog.records] == [
        "Decisions are made on this box from now on",
        "The server decides again; decided on this box: 3 identified",
    ]


def test_the_probe_is_on_the_disk_before_anybody_is_told(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    notifications = Notifications(outbox)
    with caplog.at_level("DEBUG"):
        probe: Probe = make_probe()
        recognizer(outbox, FixedGallery(KNOWN), tell=[notifications]).put([probe])
    assert notifications.waiting == [1]
    (message,) = notifications.messages
    assert (message.local, message.name, message.decided.person) == (True, "Amy Farrah", "amy")
    assert (message.probe_id, message.track_id) == (probe.probe_id, probe.track_id)
    assert "local decision identified" in caplog.text
    assert "amy" not in caplog.text.lower()


def test_a_hook_gets_the_event_on_its_input(outbox: Outbox, tmp_path: Path) -> None:
    script = tmp_path / "hook.py"
    script.write_text(
        "import sys, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'told')!r}).write_text(sys.stdin.read())\n"
    )
    hook = Hook([sys.executable, str(script)])
    Recognizer(outbox, [FixedGallery(KNOWN)], "box-1", lambda: True, [hook]).put([make_probe()])
    hook.close(30)
    event = json.loads((tmp_path / "told").read_text())
    assert (event["local"], event["decided"]["person"], event["camera"]) == (True, "amy", "door")


def test_a_hook_that_fails_or_is_missing_harms_nobody(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    for command in (["/no/such/program"], [sys.executable, "-c", "raise SystemExit(3)"]):
        hook = Hook(command)
        Recognizer(outbox, [FixedGallery(KNOWN)], "box-1", lambda: True, [hook]).put([make_probe()])
        hook.close(30)
    assert outbox.counts().waiting == 2
    assert "FileNotFoundError" in caplog.text
    assert "ended with status 3" in caplog.text


def test_a_gallery_needs_a_server_to_follow() -> None:
    table = {
        "cameras": [{"name": "door", "source": "door.mp4"}],
        "gallery": {"mode": "always"},
        "broker": {"url": "mqtt://127.0.0.1"},
    }
    with pytest.raises(ConfigurationError, match="over HTTP, also where probes go through a br"):
        settings_of(table)
    assert settings_of({**table, "server": {"url": "http://127.0.0.1"}}).gallery.max_age_h == 72


@pytest.mark.broker
def test_who_listens_at_the_broker_hears_what_the_box_decided(
    broker: Broker, outbox: Outbox
) -> None:
    topics = DeviceTopics("lab", "box-1")
    first = MqttTransport(broker.url, topics, MqttLogin())
    transport = FallbackTransport(first, HttpTransport("http://127.0.0.1:9", "key"))
    notifications: Queue[tuple[str, bytes]] = Queue()
    subscribed, connected = threading.Event(), threading.Event()
    listener = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    listener.on_connect = lambda *_: listener.subscribe(topics.of("event"), qos=1)
    listener.on_subscribe = lambda *_: subscribed.set()
    listener.on_message = lambda _client, _data, one: notifications.put((one.topic, one.payload))
    listener.connect("127.0.0.1", broker.port)
    listener.loop_start()
    transport.open(connected.set)
    try:
        assert subscribed.wait(20)
        assert connected.wait(20)
        Recognizer(
            outbox, [FixedGallery(KNOWN)], "box-1", lambda: True, [transport.send_local]
        ).put([make_probe()])
        topic, payload = notifications.get(timeout=20)
    finally:
        transport.close(1)
        listener.disconnect()
        listener.loop_stop()
    assert topic == "muster/v1/lab/box-1/event"
    message = LocalEventMessage.model_validate_json(payload)
    assert (message.local, message.decided.person) == (True, "amy")


def test_the_doctor_says_how_the_gallery_is(tmp_path: Path) -> None:
    table = {
        "device": "box-1",
        "state_dir": tmp_path,
        "cameras": [{"name": "door", "source": "door.mp4"}],
        "gallery": {"mode": "always", "collections": ["staff", "visitors"]},
        "server": {"url": "http://127.0.0.1"},
    }
    settings, clock = settings_of(table), MovableClock()
    model_id = "compact-mobilefacenet-512@1"
    keys = device_keys(tmp_path, None)
    store = Store(settings.gallery_path("staff"), "staff", keys)
    store.begin(head(model_id=model_id))
    store.extend(part([person(1)], {101: 1}))
    store.complete()
    store.apply(changes(10, gallery=gallery(model_id=model_id)))
    store.close()

    def states() -> list[str]:
        return [finding.state for finding in examine_galleries(settings, clock)]

    well, none = examine_galleries(settings, clock)
    assert (well.state, none.state) == ("well", "doubtful")
    assert "1 templates, followed to 10" in well.message
    assert "device gallery --device box-1 --give visitors" in none.advice
    clock.pass_by(hours=100)
    assert states() == ["bad", "doubtful"]
    (tmp_path / "gallery.key").write_text(Key.new().text)
    assert states() == ["bad", "doubtful"]
    assert settings.gallery_path("staff").exists()  # looked at, not mended


def test_a_gallery_whose_file_cannot_be_opened_is_left_out_and_said_so(tmp_path: Path) -> None:
    table = {
        "device": "box-1",
        "state_dir": tmp_path,
        "cameras": [{"name": "door", "source": "door.mp4"}],
        "gallery": {"mode": "always", "collections": ["staff", "visitors"]},
        "server": {"url": "http://127.0.0.1:9", "key_file": tmp_path / "server.key"},
    }
    (tmp_path / "server.key").write_text("a-key")
    settings = settings_of(table)
    settings.gallery_path("staff").mkdir()
    galleries = Galleries(settings, "test@1")
    assert [one.gallery.collection for one in galleries.followers] == ["visitors"]
    assert any("staff" in problem for problem in galleries.problems())
    assert galleries.seq() == {}
    galleries.close(1)
