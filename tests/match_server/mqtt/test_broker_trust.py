"""Other clients at the broker: what they can read and write, and what box and server accept."""

import contextlib
import json
import socket
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import trustme
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from sqlalchemy import select

from demo.processes import broker as open_broker
from demo.processes import find_broker, free_port
from edge_agent.delivery.mqtt import MqttTransport
from edge_agent.delivery.worker import Delivery
from edge_agent.fleet.clock_offset import ClockOffset
from edge_agent.fleet.server_link import BrokerLink
from edge_agent.outbox.outbox import Outbox
from match_server.db.tables import Device
from match_server.mqtt.device_reports import DeviceReports
from match_server.process.ingest import Consumer, broker_of
from match_server.schemas.devices import ConfigPut, DeviceCreate, DevicePatch
from shared.clock import SystemClock
from shared.mqtt_client import MqttLogin
from shared.wire.device import HealthMessage
from shared.wire.message_keys import PROPERTY, MessageKey
from shared.wire.messages import ProbeReceipt, ReceiptMessage
from shared.wire.topics import DeviceTopics
from tests.attacks.mqtt import valid_messages
from tests.support.probes import make_probe
from tests.support.waiting import TIMEOUT_S, wait_until

BINARY = find_broker()
pytestmark = [
    pytest.mark.broker,
    pytest.mark.backends("sqlite"),
    pytest.mark.skipif(BINARY is None, reason="no mosquitto on this machine"),
    pytest.mark.filterwarnings(  # paho leaves the socket of a refused handshake to the collector
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]
SHIPPED = Path(__file__).parents[3] / "systemd"
DOOR, YARD = DeviceTopics("main", "door-1"), DeviceTopics("main", "door-2")


class Client:
    """A client of the broker, with the messages it received and the results of its publications."""

    def __init__(self, port, *subscriptions, user=None, ca=None):
        self.received = []
        self.granted = []
        self.refused = threading.Event()
        self._subscribed = threading.Event()
        self._taken = {}
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        if user is not None:
            self._client.username_pw_set(user, f"{user}'s password")
        if ca is not None:
            self._client.tls_set(str(ca))
        self._subscriptions = [(topic, 1) for topic in subscriptions]
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._note_granted
        self._client.on_message = lambda _client, _data, message: self.received.append(message)
        self._client.on_publish = self._note_taken
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def ready(self):
        assert self._subscribed.wait(TIMEOUT_S)
        return self

    def say(self, topic, body, *, key=None, retain=False):
        """Publishes; returns whether the broker accepted it."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        properties = Properties(PacketTypes.PUBLISH)
        if key is not None:
            properties.UserProperty = (PROPERTY, key.sign(topic, payload))
        sent = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        sent.wait_for_publish(TIMEOUT_S)
        wait_until(lambda: sent.mid in self._taken, "the broker's answer")
        return not self._taken[sent.mid]

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client, _data, _flags, reason, _properties):
        if reason.is_failure:
            self.refused.set()
        elif self._subscriptions:
            client.subscribe(self._subscriptions)
        else:
            self._subscribed.set()

    def _note_granted(self, _client, _data, _mid, reasons, _properties):
        self.granted = [not reason.is_failure for reason in reasons]
        self._subscribed.set()

    def _note_taken(self, _client, _data, mid, reason, _properties):
        self._taken[mid] = reason.is_failure


@pytest.fixture
def client(stack):
    def make(port, *subscriptions, **how):
        made = Client(port, *subscriptions, **how)
        stack.callback(made.close)
        return made

    return make


@pytest.fixture
def stack():
    with contextlib.ExitStack() as opened:
        yield opened


@pytest.fixture
def guarded(tmp_path, stack):
    """The shipped example of a broker, with four logins; returns its port and authority."""
    folder = tmp_path / "mosquitto"
    (folder / "certs").mkdir(parents=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "certs" / "broker.pem")
    issued.private_key_pem.write_to_path(folder / "certs" / "broker.key")
    (folder / "muster.acl").write_text((SHIPPED / "mosquitto.acl.example").read_text())
    users = "muster-server", "muster-events", DOOR.device, YARD.device
    passwords = folder / "muster.passwd"
    passwords.write_text("".join(f"{user}:{user}'s password\n" for user in users))
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True, capture_output=True)
    for file in folder.rglob("*"):
        file.chmod(0o700)
    port = free_port()
    settings = (SHIPPED / "mosquitto.conf.example").read_text()
    settings = settings.replace("/etc/mosquitto", str(folder))
    settings = settings.replace("listener 8883", f"listener {port} 127.0.0.1")
    file = folder / "mosquitto.conf"
    file.write_text(f"{settings}persistence_location {folder}/\nuser root\n")
    process = subprocess.Popen([BINARY, "-c", str(file)], stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    wait_until(lambda: is_open(port), "the broker's start")
    return port, folder / "ca.pem"


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def port(tmp_path, stack):
    """A broker at which all clients may read and write all topics."""
    return int(stack.enter_context(open_broker(tmp_path, BINARY)).rpartition(":")[2])


@pytest.fixture
def serve(settings, stack):
    """Starts the parts of `match-server ingest`."""

    def start(services, **changes):
        at = broker_of(settings.model_copy(update=changes))
        keys = services.message_keys
        consumer = Consumer(at, services.probes, services.presence, keys)
        desk = DeviceReports(at, services.health_reports, services.configurations, keys)
        ready = threading.Event()
        for work, end in ((lambda: consumer.run(ready.set), consumer.stop), (desk.run, desk.stop)):
            thread = threading.Thread(target=work)
            thread.start()
            stack.callback(thread.join, TIMEOUT_S)
            stack.callback(end)
        assert ready.wait(TIMEOUT_S)

    return start


@pytest.fixture
def box(api, tmp_path, stack):
    """A box with a key, an outbox and a transport over the broker."""

    def make(url, topics=DOOR, login=None):
        made = api.services.devices.create(DeviceCreate(name=topics.device))
        key = MessageKey.of_api_key(made.key)
        transport = MqttTransport(url, topics, login, key=key, resend_s=1.0)
        outbox = Outbox(tmp_path / f"{topics.device}.db", topics.device)
        stack.callback(outbox.close)
        return transport, outbox, key

    return make


def deliver(stack, outbox, transport):
    delivery = Delivery(outbox, transport)
    delivery.start()
    stack.callback(delivery.stop, 2.0)
    return delivery


class TestTheShippedBroker:
    def test_a_device_neither_reads_nor_writes_what_is_another_devices(self, guarded, client):
        port, ca = guarded
        server = client(port, "muster/v1/#", user="muster-server", ca=ca).ready()
        for topics in (DOOR, YARD):  # retained: heard by who subscribes later, if he may
            assert server.say(topics.of("config/desired"), {"by": "server"}, retain=True)
        foreign_topics = [DOOR.of(kind) for kind in ("receipt", "config/desired", "probe", "event")]
        own = [YARD.of(kind) for kind in ("receipt", "config/desired")]
        # Mosquitto grants every subscription, and filters what is delivered.
        yard = client(port, "#", *foreign_topics, user=YARD.device, ca=ca).ready()
        alone = client(port, *own, user=YARD.device, ca=ca).ready()
        door = client(port, DOOR.receipt, user=DOOR.device, ca=ca).ready()
        kinds = ("probe", "status", "track", "health", "config/reported", "event", "receipt")
        for kind in (*kinds, "config/desired", "health/answer"):
            assert not yard.say(DOOR.of(kind), {"by": "yard"}, retain=True)
        assert not yard.say(YARD.receipt, {"by": "yard"})  # nor says what only the server says
        for topics in (DOOR, YARD):
            assert server.say(topics.receipt, {"by": "server"})
        assert door.say(DOOR.probe, {"by": "door"})
        assert yard.say(YARD.probe, {"by": "yard"})
        wait_until(lambda: len(server.received) == 6 and door.received, "what may be said")
        wait_until(lambda: len(alone.received) == len(yard.received) == 2, "what may be read")
        assert [one.topic for one in server.received if b"yard" in one.payload] == [YARD.probe]
        assert [one.topic for one in door.received] == [DOOR.receipt]
        assert {one.topic for one in (*alone.received, *yard.received)} == set(own)

    def test_who_has_no_login_or_only_listens_reaches_nothing(self, guarded, client):
        port, ca = guarded
        assert client(port, ca=ca).refused.wait(TIMEOUT_S)
        assert client(port, user="nobody", ca=ca).refused.wait(TIMEOUT_S)
        listener = client(port, "muster/v1/+/+/event", user="muster-events", ca=ca).ready()
        assert listener.granted == [True]
        assert not listener.say(DOOR.of("event"), {"by": "listener"})

    def test_a_box_delivers_over_it_and_over_nothing_without_its_certificate(
        self, api, helpers, guarded, serve, box, stack
    ):
        port, ca = guarded
        url = f"mqtts://127.0.0.1:{port}"
        login = {"broker_username": "muster-server", "broker_password": "muster-server's password"}
        serve(api.services, broker=url, broker_ca_file=ca, **login)
        word = f"{DOOR.device}'s password"
        transport, outbox, _ = box(url, login=MqttLogin(DOOR.device, word, ca_file=ca))
        outbox.put([make_probe(model_id=helpers.MODEL)])
        delivery = deliver(stack, outbox, transport)
        assert delivery.drained(TIMEOUT_S), delivery.complaint
        blind = MqttTransport(url, YARD, MqttLogin(YARD.device, f"{YARD.device}'s password"))
        blind.open(lambda: None)
        stack.callback(blind.close, 1.0)
        time.sleep(0.5)
        assert not blind._ready.is_set()


class TestAnOpenBroker:
    def test_a_forged_receipt_empties_no_outbox(
        self, api, helpers, port, serve, box, client, stack
    ):
        transport, outbox, key = box(f"mqtt://127.0.0.1:{port}")
        probe = make_probe(model_id=helpers.MODEL)
        outbox.put([probe])
        attacker = client(port, DOOR.probe).ready()
        deliver(stack, outbox, transport)
        wait_until(lambda: attacker.received, "the box's probe")
        forged = ReceiptMessage(
            receipts=[ProbeReceipt(probe_id=probe.probe_id, status="accepted")]
        ).model_dump_json()
        other = MessageKey(key.id, bytes(32))
        attacker.say(DOOR.receipt, forged.encode())
        attacker.say(DOOR.receipt, forged.encode(), key=other)
        refused = {"probe_id": probe.probe_id, "status": "refused", "code": "malformed"}
        attacker.say(DOOR.receipt, {"receipts": [refused]}, key=other)
        time.sleep(0.5)
        assert outbox.counts().waiting == 1
        serve(api.services, broker=f"mqtt://127.0.0.1:{port}")
        wait_until(lambda: outbox.counts().acknowledged == 1, "the server's own receipt")

    def test_nobody_has_a_probe_refused_or_replaced_by_sending_its_id(
        self, api, helpers, port, serve, client
    ):
        made = api.services.devices.create(DeviceCreate(name=DOOR.device))
        key = MessageKey.of_api_key(made.key)
        serve(api.services, broker=f"mqtt://127.0.0.1:{port}")
        far = client(port, DOOR.receipt).ready()
        first = api.probe(helpers.unit_vector(1))
        far.say(DOOR.probe, first, key=key)
        wait_until(lambda: far.received, "a receipt")
        assert key.has_signed(DOOR.receipt, far.received[0].payload, signature_in(far.received[0]))
        second = api.probe(helpers.unit_vector(2), sequence=2)
        far.say(DOOR.probe, {**second, "camera": "a b"})  # provokes a refusal
        far.say(DOOR.probe, api.probe(helpers.unit_vector(3), probe_id=second["probe_id"]))
        far.say(DOOR.probe, second, key=MessageKey(key.id, bytes(32)))
        far.say(DOOR.of("status"), {"device": DOOR.device, "online": False})
        far.say(DOOR.probe, second, key=key)
        wait_until(lambda: len(far.received) > 1, "the second receipt")
        statuses = [json.loads(one.payload)["receipts"][0]["status"] for one in far.received]
        assert statuses == ["accepted", "accepted"]
        assert api.ok("GET", "/v1/events")["total"] == 2
        assert api.ok("GET", f"/v1/devices/{DOOR.device}")["online"]

    def test_where_it_is_asked_for_nobody_speaks_unsigned(
        self, make_api, helpers, port, serve, client
    ):
        api = make_api(unsigned_messages="refuse")
        key = MessageKey.of_api_key(api.services.devices.create(DeviceCreate(name=DOOR.device)).key)
        serve(api.services, broker=f"mqtt://127.0.0.1:{port}")
        far = client(port, DOOR.receipt, YARD.receipt).ready()
        far.say(DOOR.probe, api.probe(helpers.unit_vector(1)))
        far.say(YARD.probe, api.probe(helpers.unit_vector(1), device=YARD.device))
        far.say(YARD.probe, api.probe(helpers.unit_vector(1), device=YARD.device), key=key)
        far.say(DOOR.probe, api.probe(helpers.unit_vector(2)), key=key)
        wait_until(lambda: far.received, "a receipt")
        assert api.ok("GET", "/v1/events")["total"] == 1

    def test_a_wanted_configuration_is_read_and_written_by_the_server_alone(
        self, api, port, serve, client, box, stack
    ):
        url = f"mqtt://127.0.0.1:{port}"
        serve(api.services, broker=url)
        transport, _, _ = box(url)
        api.services.devices.change(DOOR.device, DevicePatch(site="main"))
        taken = []
        link = BrokerLink(transport, ClockOffset(SystemClock()))
        link.open(taken.append)
        transport.open(lambda: None)
        stack.callback(transport.close, 1.0)
        wait_until(transport._ready.is_set, "the connection")
        link.send_health(health_of(DOOR.device, api))  # by which the server learns that it signs
        camera = {"name": "front", "source": "rtsp://admin:Passw0rt@10.0.0.9/1"}
        wait_until(lambda: names_key(api, DOOR.device), "the first signed message")
        api.services.configurations.desire(DOOR.device, ConfigPut(config={"cameras": [camera]}))
        wait_until(lambda: taken, "the configuration")
        assert taken[0].config == {"cameras": [camera]}
        attacker = client(port, DOOR.of("config/desired")).ready()
        wait_until(lambda: attacker.received, "what is retained")
        assert b"Passw0rt" not in attacker.received[0].payload
        old = attacker.received[0].payload
        forged = {"schema_version": 1, "revision": 9, "config": {"liveness": {"policy": "off"}}}
        attacker.say(DOOR.of("config/desired"), forged, retain=True)
        newer = ConfigPut(config={"log_level": "DEBUG"})
        api.services.configurations.desire(DOOR.device, newer)
        wait_until(lambda: len(taken) > 1, "the newer configuration")
        attacker.say(DOOR.of("config/desired"), old, retain=True)
        time.sleep(0.5)
        assert [one.revision for one in taken if one.revision != 2] == [1]


def test_after_a_backup_an_older_configuration_waits_for_the_servers_word(clock):
    """`BrokerLink` alone: what was retained counts when an answer to the box's health names it."""
    transport = StubTransport()
    taken = []
    link = BrokerLink(transport, ClockOffset(clock), revision=7)
    link.open(taken.append)
    health = HealthMessage.model_validate(valid_messages("door-1", clock.now())["health"])
    link.send_health(health)
    older = {"schema_version": 1, "revision": 4, "config": {}}
    transport.listeners["config/desired"](json.dumps(older).encode())
    assert taken == []
    answer = {"schema_version": 1, "device": "door-1", "answers": health.at, "at": clock.now()}
    for at, revision, expected in (
        (health.at - timedelta(hours=1), 4, []),  # of an hour ago, said again
        (health.at, 7, []),
        (health.at, 4, [4]),
    ):
        message = {**answer, "answers": at.isoformat(), "at": clock.now().isoformat()}
        transport.listeners["health/answer"](
            json.dumps({**message, "config_revision": revision}).encode()
        )
        assert [one.revision for one in taken] == expected


def test_a_box_that_enrolls_signs_from_its_first_message_on(api):
    """A code is redeemed by an agent of today, then by one that does not know of signatures."""
    services = api.services
    services.devices.announce(DeviceCreate(name=DOOR.device))
    for signs in (True, False):
        code = services.device_codes.make(DOOR.device).code
        body = {"code": code, "signs": True} if signs else {"code": code}
        granted = api.ok("POST", "/v1/devices/enroll", None, json=body)
        key = MessageKey.of_api_key(granted["key"])
        assert names_key(api, DOOR.device) == (key.id if signs else None)


class StubTransport:
    """A transport that sends nothing."""

    def __init__(self):
        self.listeners = {}

    def listen(self, kind, take):
        self.listeners[kind] = take

    def send_message(self, kind, body, *, retain=False):
        pass


def names_key(api, device):
    with api.services.database.read() as session:
        return session.scalar(select(Device.message_key).where(Device.name == device))


def health_of(device, api):
    return HealthMessage.model_validate(valid_messages(device, api.clock.now())["health"])


def signature_in(message):
    return dict(message.properties.UserProperty)[PROPERTY]
