"""Events over a real broker: once for each write, never replayed, never live when late."""

import json
import socket
import threading
from datetime import timedelta

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from demo.processes import broker as running_broker
from demo.processes import find_broker, free_port, running
from match_server.mqtt.client import broker_of
from match_server.mqtt.homeassistant import Discovery, identifier_of
from match_server.mqtt.intake import Consumer
from match_server.process.ingest import event_publisher
from shared.ids import new_id
from tests.support.waiting import TIMEOUT_S, wait_until

on_sqlite = pytest.mark.backends("sqlite")  # nothing in it depends on the database

BINARY = find_broker()
pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(BINARY is None, reason="no mosquitto on this machine"),
]
EVENTS = "muster/v1/+/+/event"


class Listener:
    """A subscriber of the broker, with the messages it received and the retained ones."""

    def __init__(self, url, *topics, client_id="", **connect):
        self.messages = []
        ready = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe(
            [(topic, 1) for topic in topics]
        )
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_message = self._take
        host, port = url.removeprefix("mqtt://").split(":")
        self._client.connect(host, int(port), **connect)
        self._client.loop_start()
        assert ready.wait(TIMEOUT_S)

    def _take(self, _client, _data, message):
        self.messages.append(message)

    def say(self, topic, payload, **options):
        self._client.publish(topic, payload, qos=1, **options).wait_for_publish(TIMEOUT_S)

    def on(self, topic):
        """Returns the texts received on a topic."""
        return [one.payload.decode() for one in list(self.messages) if one.topic == topic]

    def last(self, topic):
        texts = self.on(topic)
        return texts[-1] if texts else None

    def events(self):
        return [
            json.loads(one.payload) for one in list(self.messages) if one.topic.endswith("/event")
        ]

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path):
    with running_broker(tmp_path, BINARY) as url:
        yield url


@pytest.fixture
def listen(broker):
    opened = []

    def open_listener(*topics, **options):
        opened.append(Listener(broker, *topics, **options))
        return opened[-1]

    yield open_listener
    for listener in opened:
        listener.close()


@pytest.fixture
def publish(broker):
    """Starts a publisher over the services of an `Api`, and waits until it has begun."""
    started = []

    def begin(api):
        settings = api.services.settings.model_copy(update={"broker": broker})
        publisher = event_publisher(api.services, broker_of(settings))
        publisher.start()
        started.append(publisher)
        wait_until(
            lambda: api.services.event_feed.reached("mqtt") is not None, "a publisher's start"
        )
        return publisher

    yield begin
    for publisher in started:
        publisher.close()


def test_each_write_to_an_event_is_published_with_its_expiry_and_not_retained(
    api, helpers, listen, publish
):
    listener = listen(EVENTS)
    publish(api)
    api.person("Ann", helpers.unit_vector(1))
    track = new_id()
    for seed in (9, 1):
        (result,) = api.send(api.probe(helpers.unit_vector(seed), track_id=track))
        wait_until(lambda: listener.events(), "an event")
    wait_until(lambda: len(listener.events()) == 2, "two events")
    first, second = listener.events()
    assert first["id"] == second["id"] == result["event"]["id"]
    assert first["revision"] < second["revision"]
    assert (first["decision"], second["person"]["name"]) == ("unknown", "Ann")
    message = listener.messages[0]
    assert message.topic == "muster/v1/main/door-1/event"
    assert (message.qos, message.retain) == (1, False)
    assert 0 < message.properties.MessageExpiryInterval <= 10
    later = listen("#")
    api.send(api.probe(helpers.unit_vector(8)))
    wait_until(lambda: later.events(), "the next event")
    assert len(later.events()) == 1


@on_sqlite
def test_a_late_event_is_published_as_late(api, helpers, listen, publish):
    listener = listen(EVENTS)
    publish(api)
    late = api.clock.now() - timedelta(seconds=11)
    api.send(helpers.probe_message(helpers.unit_vector(1), late))
    wait_until(lambda: listener.events(), "an event")
    assert not listener.events()[0]["live"]


def test_what_happened_while_nobody_published_comes_later_and_not_as_live(
    api, helpers, listen, publish
):
    listener = listen(EVENTS)
    publish(api).close()
    tracks = [api.send(api.probe(helpers.unit_vector(n)))[0]["event"]["id"] for n in range(5)]
    api.clock.advance(60)
    publish(api)
    wait_until(lambda: len(listener.events()) >= 5, "five events")
    assert [event["id"] for event in listener.events()] == tracks
    assert not any(event["live"] for event in listener.events())


def test_two_publishers_publish_once_and_one_takes_over(make_api, helpers, listen, publish):
    first, second = make_api(), make_api()
    listener = listen(EVENTS)
    one = publish(first)
    publish(second)
    for seed in range(5):
        second.send(second.probe(helpers.unit_vector(seed)))
    wait_until(lambda: len(listener.events()) == 5, "five events")
    one.close()
    first.send(first.probe(helpers.unit_vector(7)))
    wait_until(lambda: len(listener.events()) == 6, "an event of the other")
    revisions = [event["revision"] for event in listener.events()]
    assert revisions == sorted(set(revisions))


HOME = {"home_assistant": True, "double_take": True}


def sensors(listener):
    """Returns the retained descriptions of sensors, by unique id."""
    topics = {}
    for one in list(listener.messages):
        if one.topic.startswith("homeassistant/") and one.topic.endswith("/config"):
            topics[one.topic] = json.loads(one.payload) if one.payload else None
    return {topic: config for topic, config in topics.items() if config is not None}


@on_sqlite
def test_home_assistant_finds_the_sensors_of_a_camera(make_api, helpers, listen, publish):
    api = make_api(**HOME)
    listener = listen("#")
    publish(api)
    api.send(api.probe(helpers.unit_vector(1), camera="front.door"))
    wait_until(lambda: len(sensors(listener)) == 4, "four sensors")
    late = listen("homeassistant/#")
    wait_until(lambda: len(sensors(late)) == 4, "retained descriptions")
    for topic, config in sensors(late).items():
        assert all(set(part) <= set(ALLOWED) for part in topic.split("/")[1:-1]), topic
        assert config["availability_topic"] == "muster/homeassistant/status"
        assert config["device"]["manufacturer"] == "Muster"
        assert config["expire_after"] > 60
    kinds = {topic.split("/")[1] + ":" + config["name"] for topic, config in sensors(late).items()}
    assert kinds == {
        "sensor:Last person",
        "sensor:People present",
        "binary_sensor:Unknown present",
        "binary_sensor:Camera online",
    }
    assert len({config["unique_id"] for config in sensors(late).values()}) == 4


ALLOWED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


def state(listener, name):
    """Returns the state that Home Assistant shows for the sensor of that name."""
    for config in sensors(listener).values():
        if config["name"] == name:
            return listener.last(config["state_topic"])
    return None


@on_sqlite
def test_the_last_person_is_named_while_live_and_nobody_after(make_api, helpers, listen, publish):
    api = make_api(**HOME)
    listener = listen("#")
    publish(api)
    ann = api.person("Ann", helpers.unit_vector(1))
    late = api.clock.now() - timedelta(seconds=30)
    api.send(helpers.probe_message(helpers.unit_vector(1), late))
    wait_until(lambda: state(listener, "Last person") == "nobody", "nobody")
    api.clock.advance(60)
    api.send(api.probe(helpers.unit_vector(1)))
    wait_until(lambda: state(listener, "Last person") == "Ann", "Ann")
    (config,) = [one for one in sensors(listener).values() if one["name"] == "Last person"]
    attributes = json.loads(listener.last(config["json_attributes_topic"]))
    assert (attributes["person_id"], attributes["collection"]) == (ann, "default")
    api.clock.advance(31)
    wait_until(lambda: state(listener, "Last person") == "nobody", "nobody again")
    api.send(api.probe(helpers.unit_vector(7)))
    wait_until(lambda: state(listener, "Last person") == "stranger", "somebody unknown")


def test_people_in_view_are_counted_by_their_tracks(make_api, helpers, listen, publish):
    api = make_api(**HOME)
    listener = listen("#")
    publish(api)
    ann = api.person("Ann", helpers.unit_vector(1))
    tracks = [new_id(), new_id()]
    api.send(api.probe(helpers.unit_vector(1), track_id=tracks[0]))

    def say(track, what, in_view):
        now = api.clock.now().isoformat()
        body = {"device": "door-1", "camera": "front", "track_id": track, "state": what}
        body |= {"at": now, "began_at": now, "in_view": in_view, "probes": 0}
        assert api.ok("POST", "/v1/tracks", "device", json=body) == {"taken": 1, "late": 0}

    say(tracks[0], "began", 1)
    wait_until(lambda: state(listener, "People present") == "1", "one person")
    (seen,) = api.ok("GET", "/v1/presence")["items"]
    assert (seen["persons"], seen["unknown"]) == ([{"id": ann, "name": "Ann"}], 0)
    say(tracks[1], "began", 2)
    wait_until(lambda: state(listener, "People present") == "2", "two")
    (seen,) = api.ok("GET", "/v1/presence")["items"]
    assert (seen["unknown"], seen["undecided"]) == (0, 1)
    assert state(listener, "Unknown present") == "OFF"  # until a search has said so
    api.send(api.probe(helpers.unit_vector(7), track_id=tracks[1]))
    wait_until(lambda: state(listener, "Unknown present") == "ON", "one of them unknown")
    wait_until(lambda: state(listener, "Camera online") == "ON", "the camera")
    say(tracks[1], "ended", 1)
    say(tracks[0], "ended", 0)
    wait_until(lambda: state(listener, "People present") == "0", "nobody")
    wait_until(lambda: state(listener, "Unknown present") == "OFF", "no unknown either")
    say(tracks[0], "began", 1)
    api.clock.advance(121)
    wait_until(lambda: state(listener, "Camera online") == "OFF", "silence")
    wait_until(lambda: state(listener, "People present") == "0", "nobody after the silence")


@on_sqlite
def test_nothing_that_is_retained_ever_names_anybody(make_api, helpers, listen, publish):
    api = make_api(**HOME)
    listener = listen("#")
    publish(api)
    ann = api.person("Ann Onymous", helpers.unit_vector(1))
    api.send(api.probe(helpers.unit_vector(1)))
    wait_until(lambda: state(listener, "Last person") == "Ann Onymous", "Ann")
    wait_until(lambda: listener.on("double-take/matches/Ann-Onymous"), "her topic")
    api.ok("DELETE", f"/v1/collections/default/persons/{ann}")
    wait_until(lambda: state(listener, "Last person") == "nobody", "nobody")
    wait_until(lambda: listener.events()[-1]["person_erased"], "the event without her")
    later = listen("#")
    wait_until(lambda: len(sensors(later)) == 4, "what is retained")
    for message in list(later.messages):
        if message.retain:
            assert b"Onymous" not in message.payload
            assert "Onymous" not in message.topic


@on_sqlite
def test_everything_is_said_again_when_home_assistant_starts(make_api, helpers, listen, publish):
    api = make_api(**HOME)
    listener = listen("#")
    publish(api)
    api.send(api.probe(helpers.unit_vector(1)))
    wait_until(lambda: state(listener, "Camera online") == "ON", "states")
    before = len([one for one in listener.messages if one.topic.endswith("/config")])
    online = next(one for one in sensors(listener).values() if one["name"] == "Camera online")
    count = len(listener.on(online["state_topic"]))
    listener.say("homeassistant/status", "online")
    wait_until(
        lambda: (
            len([one for one in listener.messages if one.topic.endswith("/config")]) >= before + 4
        ),
        "descriptions",
    )
    wait_until(lambda: len(listener.on(online["state_topic"])) > count, "states again")


@on_sqlite
def test_a_camera_whose_box_is_gone_is_taken_back(make_api, helpers, listen, publish):
    api = make_api(**HOME)
    listener = listen("#")
    publisher = publish(api)
    api.send(api.probe(helpers.unit_vector(1)))
    wait_until(lambda: len(sensors(listener)) == 4, "four sensors")
    publisher.close()
    wait_until(lambda: listener.last("muster/homeassistant/status") == "offline", "a farewell")
    api.ok("DELETE", "/v1/devices/door-1")
    publish(api)
    wait_until(lambda: sensors(listener) == {}, "no sensors")


@on_sqlite
def test_double_takes_topics_are_served_on_wish(make_api, helpers, listen, publish):
    api = make_api(double_take=True)
    listener = listen("#")
    publish(api)
    api.person("Ann O. +/#1", helpers.unit_vector(1))
    api.person("王 小明", helpers.unit_vector(2))
    camera = "double-take/cameras/front"
    api.send(api.probe(helpers.unit_vector(1), camera="Front"))
    wait_until(lambda: listener.on(f"{camera}/person"), "a count")
    wait_until(lambda: listener.on("double-take/matches/Ann-O-1"), "a match")
    wait_until(lambda: listener.on(camera), "the camera's")
    (match,) = listener.on("double-take/matches/Ann-O-1")
    assert json.loads(match)["match"]["name"] == "Ann O. +/#1"
    assert json.loads(match)["camera"] == "front"
    (seen,) = listener.on(camera)
    assert json.loads(seen)["matches"][0]["match"] is True
    assert json.loads(seen)["counts"] == {"person": 1, "match": 1, "miss": 0, "unknown": 0}
    api.clock.advance(31)
    wait_until(lambda: listener.on(f"{camera}/person") == ["1", "0"], "nobody")
    api.send(api.probe(helpers.unit_vector(2), sequence=2))
    wait_until(lambda: listener.on("double-take/matches/王-小明"), "a name of other letters")
    api.send(api.probe(helpers.unit_vector(9), sequence=3))
    wait_until(lambda: listener.on("double-take/matches/unknown"), "somebody unknown")
    (unknown,) = listener.on("double-take/matches/unknown")
    assert json.loads(unknown)["unknown"]["match"] is False
    assert not [one for one in listener.messages if one.topic.startswith("homeassistant")]


@on_sqlite
def test_a_count_that_was_left_behind_goes_back_to_nobody(make_api, helpers, listen, publish):
    api = make_api(double_take=True)
    listener = listen("double-take/#")
    first = publish(api)
    topic = "double-take/cameras/front/person"
    api.send(api.probe(helpers.unit_vector(1)))
    wait_until(lambda: listener.last(topic) == "1", "somebody")
    first.close()  # before its half minute is over
    publish(api)
    wait_until(lambda: listener.last(topic) == "0", "nobody")


def test_track_messages_come_over_the_broker_too(api, broker, listen):
    settings = api.services.settings.model_copy(update={"broker": broker})
    consumer = Consumer(broker_of(settings), api.services.probes, api.services.presence)
    ready = threading.Event()
    thread = threading.Thread(target=consumer.run, args=(ready.set,))
    thread.start()
    try:
        assert ready.wait(TIMEOUT_S)
        box = listen("nothing")
        now = api.clock.now().isoformat()
        message = {"device": "door-1", "camera": "front", "track_id": new_id(), "state": "began"}
        message |= {"at": now, "began_at": now, "in_view": 1, "probes": 0}
        status = {"schema_version": 1, "device": "door-1", "online": True}
        box.say("muster/v1/home/door-1/status", json.dumps(status))
        box.say("muster/v1/home/door-1/track", "{}")
        box.say("muster/v1/home/door-2/track", json.dumps(message))
        box.say("muster/v1/home/door-1/track", json.dumps(message))
        wait_until(lambda: api.services.presence.now().items, "a face in view")
        (seen,) = api.services.presence.now().items
        assert (seen.device, seen.site, seen.in_view) == ("door-1", "home", 1)
        assert (seen.unknown, seen.undecided) == (0, 1)
    finally:
        consumer.stop()
        thread.join(TIMEOUT_S)


@pytest.mark.parametrize(("one", "other"), [("a.b", "a_b"), ("a.b", "a-b"), ("a.b", "a..b")])
def test_different_names_have_different_identifiers(one, other):
    assert identifier_of(one) != identifier_of(other)
    configs = Discovery("homeassistant", "muster", "1").configs([(one, "x"), (other, "x")])
    assert len(configs) == 8


@on_sqlite
def test_after_a_brokers_absence_nothing_old_looks_live_and_nothing_is_missing(
    api, helpers, tmp_path
):
    """A client that sends what it had queued, as it was, would open a door for nobody."""
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n"
        f"persistence true\npersistence_location {tmp_path}/\n"
    )
    url = f"mqtt://127.0.0.1:{port}"
    settings = api.services.settings.model_copy(update={"broker": url})
    publisher = event_publisher(api.services, broker_of(settings))
    command, log = [BINARY, "-c", str(config)], tmp_path / "mosquitto.log"
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = 3600  # the broker keeps for the listener what it misses
    try:
        with running(command, log):
            wait_until(lambda: answers(port), "the broker")
            listener = Listener(
                url, EVENTS, client_id="listener", clean_start=False, properties=session
            )
            publisher.start()
            wait_until(lambda: api.services.event_feed.reached("mqtt") is not None, "a start")
        sent = [api.send(api.probe(helpers.unit_vector(n)))[0]["event"]["id"] for n in range(3)]
        api.clock.advance(11)
        with running(command, log):
            wait_until(lambda: len(listener.events()) >= 3, "what was missed")
            now = api.send(api.probe(helpers.unit_vector(9)))[0]["event"]["id"]
            wait_until(lambda: listener.events()[-1]["id"] == now, "what is new")
            listener.close()
        live = {event["id"]: event["live"] for event in listener.events()}
        assert live == {**dict.fromkeys(sent, False), now: True}
    finally:
        publisher.close()


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
