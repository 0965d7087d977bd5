"""Probes over a real broker: none lost, none twice, across restarts of each program."""

import contextlib
import json
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import trustme
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import select

from demo.processes import find_broker
from match_server.db.tables import Device
from match_server.mqtt.client import why_no_broker
from match_server.process.ingest import Consumer, broker_of
from shared.encryption import Key
from shared.errors import ConfigurationError, Unavailable
from shared.ids import new_id
from shared.wire.messages import ProbeMessage
from shared.wire.topics import DeviceTopics
from tests.attacks import mqtt as attacks
from tests.support.waiting import TIMEOUT_S, wait_until

BINARY = find_broker()
needs_broker = [
    pytest.mark.broker,
    pytest.mark.skipif(BINARY is None, reason="no mosquitto on this machine"),
]
TOPICS = DeviceTopics("home", "door-1")


class Broker:
    """A mosquitto that keeps its sessions on disk, so that it can be restarted."""

    def __init__(self, folder: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\nuser root\nautosave_interval 1\n"
        )
        self._log = (folder / "mosquitto.log").open("ab")
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [BINARY, "-c", str(self._config)], stdout=self._log, stderr=self._log
        )
        wait_until(self._answers, "the broker's start")

    def stop(self):
        self.process.terminate()
        self.process.wait(10)

    def close(self):
        self.stop()
        self._log.close()

    def _answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Box:
    """A device: publishes probes, collects receipts."""

    def __init__(self, port):
        self.receipts = []
        subscribed = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, "box", protocol=mqtt.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe(TOPICS.receipt, qos=1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = self._received
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert subscribed.wait(TIMEOUT_S)

    def send(self, payload, topic=TOPICS.probe, **options):
        text = payload if isinstance(payload, str | bytes) else json.dumps(payload)
        self.client.publish(topic, text, qos=1, **options).wait_for_publish(TIMEOUT_S)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def _received(self, _client, _data, message):
        self.receipts += json.loads(message.payload)["receipts"]


class Ingest:
    """A consumer in a thread."""

    def __init__(self, settings, intake, **changes):
        self.consumer = Consumer(broker_of(settings.model_copy(update=changes)), intake)
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.consumer.run, args=(self.ready.set,))
        self.thread.start()

    def wait(self):
        assert self.ready.wait(TIMEOUT_S)
        return self

    def stop(self):
        self.consumer.stop()
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()


@pytest.fixture
def broker(tmp_path):
    made = Broker(tmp_path)
    yield made
    made.close()


@pytest.fixture
def start(settings, broker):
    started = []

    def begin(intake, **changes):
        address = f"mqtt://127.0.0.1:{broker.port}"
        started.append(Ingest(settings, intake, broker=address, **changes))
        return started[-1]

    yield begin
    for one in started:
        one.stop()


@pytest.fixture
def box(broker):
    made = Box(broker.port)
    yield made
    made.close()


class TestOverABroker:
    pytestmark = needs_broker

    def test_a_probe_is_stored_and_receipted(self, api, helpers, start, box):
        api.person("Ann", helpers.unit_vector(1))
        start(api.services.probes).wait()
        probe = api.probe(helpers.unit_vector(1))
        box.send(probe)
        wait_until(lambda: box.receipts, "a receipt")
        assert box.receipts == [
            {"probe_id": probe["probe_id"], "status": "accepted", "code": None, "message": None}
        ]
        assert api.ok("GET", "/v1/events")["items"][0]["person"]["name"] == "Ann"

    def test_the_same_probe_twice_is_one_event_and_two_receipts(self, api, helpers, start, box):
        start(api.services.probes).wait()
        probe = api.probe(helpers.unit_vector(1))
        box.send(probe)
        box.send(probe)
        wait_until(lambda: len(box.receipts) == 2, "two receipts")
        assert [one["status"] for one in box.receipts] == ["accepted", "duplicate"]
        assert api.ok("GET", "/v1/events")["items"][0]["probes"] == 1

    def test_what_cannot_be_stored_is_refused_and_the_next_one_is_taken(
        self, api, helpers, start, box
    ):
        start(api.services.probes).wait()
        good = api.probe(helpers.unit_vector(1))
        foreign = {**api.probe(helpers.unit_vector(1)), "model_id": "other@2"}
        elsewhere = api.probe(helpers.unit_vector(1), device="door-2")
        for payload in ("{", '{"probe_id": "odd"}', foreign, elsewhere, good):
            box.send(payload)
        wait_until(lambda: len(box.receipts) == 4, "four receipts")
        assert [(one["status"], one["code"]) for one in box.receipts] == [
            ("refused", "malformed"),
            ("refused", "model_mismatch"),
            ("refused", "forbidden"),
            ("accepted", None),
        ]

    def test_probes_sent_while_nobody_consumed_are_taken_later(self, api, helpers, start, box):
        first = start(api.services.probes).wait()
        first.stop()
        probes = [api.probe(helpers.unit_vector(n), sequence=n) for n in range(1, 6)]
        for probe in probes:
            box.send(probe)
        assert box.receipts == []
        start(api.services.probes).wait()
        wait_until(lambda: len(box.receipts) == 5, "five receipts")
        assert api.ok("GET", "/v1/events")["total"] == 5

    def test_probes_that_wait_together_are_stored_together(self, api, helpers, start, box):
        start(api.services.probes).wait().stop()
        probes = [api.probe(helpers.unit_vector(n), sequence=n) for n in range(1, 21)]
        for probe in probes[:10]:
            box.send(probe)
        box.send({**probes[0], "probe_id": new_id(), "model_id": "other@2"})
        for probe in probes[10:]:
            box.send(probe)
        intake = CountingIntake(api.services.probes)
        start(intake).wait()
        wait_until(lambda: len(box.receipts) == 21, "all receipts")
        assert [receipt["status"] for receipt in box.receipts].count("refused") == 1
        accepted = [one["probe_id"] for one in box.receipts if one["status"] == "accepted"]
        assert accepted == [probe["probe_id"] for probe in probes]
        assert intake.taken == 21
        assert intake.lists <= 5
        assert api.ok("GET", "/v1/devices/door-1")["sequence"]["missing"] == 0

    def test_a_fault_at_one_probe_of_several_leaves_out_that_probe_alone(
        self, api, helpers, start, box
    ):
        start(api.services.probes).wait().stop()
        cameras = ["front", "odd", "back"]
        for number, camera in enumerate(cameras, start=1):
            box.send(api.probe(helpers.unit_vector(number), camera=camera, sequence=number))
        start(StumblingIntake(api.services.probes)).wait()
        wait_until(lambda: len(box.receipts) == 2, "the receipts of the others")
        events = api.ok("GET", "/v1/events")["items"]
        assert {event["camera"] for event in events} == {"front", "back"}

    def test_a_probe_that_could_not_be_stored_is_not_acknowledged_and_comes_again(
        self, api, helpers, start, box
    ):
        intake = FailingIntake(api.services.probes, failures=2)
        start(intake).wait()
        box.send(api.probe(helpers.unit_vector(1)))
        wait_until(lambda: box.receipts, "a receipt after all")
        assert intake.tries == 3
        assert [one["status"] for one in box.receipts] == ["accepted"]
        assert api.ok("GET", "/v1/events")["total"] == 1

    def test_a_restart_of_the_broker_loses_nothing(self, api, helpers, start, box, broker):
        start(api.services.probes).wait()
        box.send(api.probe(helpers.unit_vector(1)))
        wait_until(lambda: len(box.receipts) == 1, "the first receipt")
        broker.stop()
        broker.start()
        wait_until(box.client.is_connected, "the box's reconnection")
        box.send(api.probe(helpers.unit_vector(2), sequence=2))
        wait_until(lambda: api.ok("GET", "/v1/events")["total"] == 2, "the second event")

    def test_several_consumers_share_the_probes(self, api, make_api, helpers, start, box):
        counting = [CountingIntake(api.services.probes), CountingIntake(make_api().services.probes)]
        for number, intake in enumerate(counting):
            start(intake, ingest_client_id=f"ingest-{number}").wait()
        for sequence in range(1, 21):
            box.send(api.probe(helpers.unit_vector(sequence), sequence=sequence))
        wait_until(lambda: len(box.receipts) == 20, "twenty receipts")
        assert {one["status"] for one in box.receipts} == {"accepted"}
        assert all(intake.taken > 0 for intake in counting)
        assert sum(intake.taken for intake in counting) == 20

    def test_status_and_last_will_are_remembered(self, api, start, box):
        status = {"schema_version": 1, "device": "door-1", "online": True}
        box.send(status, TOPICS.status, retain=True)
        start(api.services.probes).wait()  # comes after the status was said: it is retained

        def state():
            with api.services.database.read() as session:
                device = session.scalars(select(Device)).one_or_none()
            return device and (device.name, device.site, device.online)

        wait_until(lambda: state() == ("door-1", "home", True), "the retained status")
        box.send({**status, "online": False}, TOPICS.status)
        wait_until(lambda: state() == ("door-1", "home", False), "the last will")

    def test_a_broker_that_is_away_at_first_is_waited_for(self, api, helpers, start, broker):
        broker.stop()
        waiting = start(api.services.probes)
        broker.start()
        waiting.wait()

    @pytest.mark.parametrize("where", ["probe_id", "local"])
    def test_text_that_no_database_keeps_is_refused_and_the_next_probe_is_taken(
        self, api, helpers, start, box, where
    ):
        start(api.services.probes).wait()
        odd = api.probe(helpers.unit_vector(1))
        if where == "local":
            local = {"collection": "default", "decision": "identified", "similarity": 0.6, "seq": 1}
            odd["local"] = {**local, "person": "a\x00b"}
            follow = {"collection": "default", "device": "door-1"}
            api.call("GET", "/v1/snapshot", query_string=follow)  # so that the box holds a gallery
        for half in ("\ud800", "\x00"):
            box.send({**odd, "probe_id": half})
        box.send(odd if where == "local" else "\ud800".encode("utf-8", "surrogatepass"))
        good = api.probe(helpers.unit_vector(1), sequence=2)
        box.send(good)
        wait_until(
            lambda: good["probe_id"] in {one["probe_id"] for one in box.receipts}, "a receipt"
        )
        expected = [(odd["probe_id"], "refused")] if where == "local" else []
        expected.append((good["probe_id"], "accepted"))
        assert [(one["probe_id"], one["status"]) for one in box.receipts] == expected

    @pytest.mark.parametrize("trouble", ["locked", "deleted"])
    def test_probes_that_wait_for_one_collection_stand_before_no_other_box(
        self, make_api, helpers, start, box, tmp_path, trouble
    ):
        (tmp_path / "master.key").write_text(Key.new().text)
        key = {"encryption_key_file": tmp_path / "master.key"}
        server = make_api(**key)
        for name in ("vault", "open"):
            made = {"name": name, "encrypted": name == "vault"}
            server.ok("POST", "/v1/collections", json=made)
        for device, collection in (("door-1", "open"), ("door-2", "vault")):
            server.ok("POST", "/v1/devices", json={"name": device, "collection": collection})
        if trouble == "deleted":
            server.call("DELETE", "/v1/collections/vault")
            server.call("DELETE", "/v1/collections/default")
        reader = server if trouble == "deleted" else make_api()
        consumer = start(reader.services.probes).wait()
        foreign_topic = DeviceTopics("home", "door-2").probe
        waiting = [
            reader.probe(helpers.unit_vector(1), device="door-2", sequence=number)
            for number in range(1, 121)
        ]
        for probe in waiting:
            box.send(probe, foreign_topic)
        box.send(reader.probe(helpers.unit_vector(1)))
        wait_until(lambda: box.receipts, "the receipt of the other box")
        consumer.stop()
        # They are not lost: no receipt came, so their box sends them again.
        if trouble == "deleted":
            made = {"name": "default"}
            server.ok("POST", "/v1/collections", json=made)
        message = ProbeMessage.model_validate(waiting[0])
        (again,) = server.services.probes.accept_all([message])
        assert again.status == "accepted"

    def test_a_fault_of_the_program_at_one_probe_stands_before_no_other(
        self, api, helpers, start, box
    ):
        intake = StumblingIntake(api.services.probes)
        start(intake).wait()
        box.send(api.probe(helpers.unit_vector(1), camera="odd"))
        good = api.probe(helpers.unit_vector(1), sequence=2)
        box.send(good)
        wait_until(lambda: box.receipts, "a receipt")
        assert [one["probe_id"] for one in box.receipts] == [good["probe_id"]]

    @pytest.mark.backends("sqlite")
    def test_a_message_larger_than_any_of_ours_reaches_no_memory(self, api, settings, broker, box):
        tracks = NotedTracks()
        address = f"mqtt://127.0.0.1:{broker.port}"
        at = broker_of(settings.model_copy(update={"broker": address}))
        consumer = Consumer(at, api.services.probes, tracks)
        ready = threading.Event()
        thread = threading.Thread(target=consumer.run, args=(ready.set,))
        thread.start()
        assert ready.wait(TIMEOUT_S)
        for in_view, size in enumerate((3_000_000, 1_000, 1_100_000, 1_000)):
            box.send(track(in_view).ljust(size), TOPICS.of("track"))
        wait_until(lambda: 3 in tracks.in_view, "the last message")
        consumer.stop()
        thread.join(TIMEOUT_S)
        assert tracks.in_view == [1, 3]

    def test_a_fuzzed_device_stands_before_no_other(self, api, helpers, settings, broker):
        own_settings = settings.model_copy(update={"broker": f"mqtt://127.0.0.1:{broker.port}"})
        far = attacks.Far(broker.port)
        with attacks.server_of(own_settings, api.services) as stumbles:
            attacks.attack(
                far,
                api.clock.now(),
                seed=2,
                blocks=3,
                model_id=helpers.MODEL,
                look=lambda: attacks.look_at(api.services),
            )
        far.close()
        assert stumbles.seen == []


class NotedTracks:
    def __init__(self):
        self.in_view = []

    def note(self, messages):
        self.in_view += [message.in_view for message in messages]


def track(in_view):
    """Returns a track message as bytes."""
    now = "2026-11-20T12:00:00Z"
    fields = {"device": TOPICS.device, "camera": "door", "track_id": new_id(), "state": "began"}
    fields |= {"at": now, "began_at": now, "in_view": in_view, "probes": 0}
    return json.dumps(fields).encode()


class StumblingIntake:
    """Fails with a bug at probes of one camera."""

    def __init__(self, probes):
        self._probes = probes

    def accept_all(self, messages, *, site=None):
        if any(message.camera == "odd" for message in messages):
            raise RuntimeError("nobody has thought of this")
        return self._probes.accept_all(messages, site=site)

    def note_status(self, site, message):
        pass


class FailingIntake:
    """Fails at the first attempts, as if the database were away."""

    def __init__(self, probes, failures):
        self._probes, self._failures, self.tries = probes, failures, 0

    def accept_all(self, messages, *, site=None):
        self.tries += 1
        if self.tries <= self._failures:
            raise Unavailable("the database does not answer")
        return self._probes.accept_all(messages, site=site)

    def note_status(self, site, message):
        pass


class CountingIntake:
    def __init__(self, probes):
        self._probes, self.taken, self.lists = probes, 0, 0

    def accept_all(self, messages, *, site=None):
        self.taken += len(messages)
        self.lists += 1
        return self._probes.accept_all(messages, site=site)

    def note_status(self, site, message):
        pass


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "http://x", "mqtt://", "mqtt://user:hush@x", "mqtt://x:port"]
)
def test_an_address_that_is_no_brokers_is_refused_without_showing_a_password(settings, address):
    with pytest.raises(ConfigurationError) as caught:
        broker_of(settings.model_copy(update={"broker": address}))
    assert "hush" not in caught.value.message


def test_an_address_may_leave_out_the_port(settings):
    plain = broker_of(settings.model_copy(update={"broker": "mqtt://host"}))
    safe = broker_of(settings.model_copy(update={"broker": "mqtts://host"}))
    assert (plain.port, plain.tls, safe.port, safe.tls) == (1883, False, 8883, True)


@pytest.mark.backends("sqlite")
@pytest.mark.filterwarnings(  # paho leaves the socket of a refused handshake to the collector
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_broker_with_a_certificate_of_its_own_is_trusted_by_its_authority_alone(
    settings, tmp_path
):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            for _ in range(2):
                caller, _ = listener.accept()
                with (
                    contextlib.suppress(OSError),
                    context.wrap_socket(caller, server_side=True) as secure,
                ):
                    secure.recv(1)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        own_settings = settings.model_copy(update={"broker": f"mqtts://127.0.0.1:{port}"})
        plain = socket.create_connection(("127.0.0.1", port))
        with pytest.raises(OSError, match="certificate") as caught:
            ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1")
        assert why_no_broker(caught.value) == (
            "no authority that is trusted here vouches for its certificate; "
            "set broker_ca_file to the authority that signed it"
        )
        trusting = own_settings.model_copy(update={"broker_ca_file": tmp_path / "ca.pem"})
        client = broker_of(trusting).client()
        assert client.connect("127.0.0.1", port) == 0
        client.disconnect()
        client.loop()
        server.join(5)
