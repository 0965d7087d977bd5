"""What only the MQTT transport does, with a real broker."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import trustme
from paho.mqtt.enums import CallbackAPIVersion

from demo.processes import find_broker, free_port
from edge_agent.delivery.mqtt import MqttTransport, try_broker
from edge_agent.delivery.worker import Delivery
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.probe import Probe
from shared.errors import ConfigurationError, Unauthenticated, Unavailable
from shared.mqtt_client import MqttLogin
from shared.wire.messages import StatusMessage
from shared.wire.topics import DeviceTopics
from tests.support.fake_servers import SITE, Broker, FakeIngest
from tests.support.probes import DEVICE, make_probe
from tests.support.waiting import wait_until

pytestmark = pytest.mark.broker
Probes = Callable[[int], list[Probe]]
TOPICS = DeviceTopics(SITE, DEVICE)
PICTURE = b"\xff\xd8\xff" + bytes(48_000)


class Listener:
    """Collects the messages of one topic."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.received: list[tuple[bytes, bool]] = []
        self._changed = threading.Condition()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda *_: self._client.subscribe(topic, qos=1)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def wait_for(self, what: Callable[[list[bytes]], bool]) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: what([body for body, _ in self.received]), 20)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        with self._changed:
            self.received.append((message.payload, message.retain))
            self._changed.notify_all()


def status_message(online: bool) -> bytes:
    return StatusMessage(device=DEVICE, online=online).model_dump_json().encode()


def test_the_broker_having_a_probe_is_not_the_server_having_it(
    outbox: Outbox, broker: Broker, probes: Probes
) -> None:
    far_end = FakeIngest(broker, DEVICE)
    far_end.ledger.silent = True
    far_end.start()
    outbox.put(probes(2))
    delivery = Delivery(outbox, far_end.transport())
    delivery.start()
    try:
        # Each probe came more than once: nobody answered, so the box sent it again.
        assert far_end.ledger.wait_for(lambda: len(far_end.ledger.offers) >= 4)
        assert outbox.counts().waiting == 2
        far_end.ledger.silent = False
        assert delivery.drained(20)
    finally:
        delivery.stop(2.0)
        far_end.stop()
    assert far_end.ledger.sequences == [1, 2]


def test_a_broker_that_restarts_is_recovered_from(
    outbox: Outbox, broker: Broker, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    def lost() -> int:
        return sum("cannot be reached" in record.getMessage() for record in caplog.records)

    far_end = FakeIngest(broker, DEVICE)
    far_end.start()
    delivery = Delivery(outbox, far_end.transport())
    delivery.start()
    try:
        outbox.put(probes(2))
        assert delivery.drained(20)
        broker.stop()
        outbox.put(probes(3))
        assert not delivery.drained(1.0)
        wait_until(lost, "the agent has tried to reach the broker", 20)
        broker.start()
        assert delivery.drained(30)
    finally:
        delivery.stop(2.0)
        far_end.stop()
    assert far_end.ledger.sequences == [1, 2, 3, 4, 5]
    assert lost() == 1


def test_the_box_says_that_it_is_there_and_says_goodbye(broker: Broker, outbox: Outbox) -> None:
    delivery = Delivery(outbox, MqttTransport(broker.url, TOPICS))
    listener = Listener(broker, TOPICS.status)
    delivery.start()
    assert listener.wait_for(lambda received: received[-1:] == [status_message(True)])
    late = Listener(broker, TOPICS.status)
    assert late.wait_for(lambda received: received == [status_message(True)])
    assert late.received[0][1], "a later subscriber gets it, too"
    delivery.stop(2.0)
    assert listener.wait_for(lambda received: received[-1:] == [status_message(False)])
    listener.stop()
    late.stop()


def test_the_broker_says_it_when_the_box_is_gone_without_a_word(broker: Broker) -> None:
    transport = MqttTransport(broker.url, TOPICS)
    listener = Listener(broker, TOPICS.status)
    transport.open(lambda: None)
    assert listener.wait_for(lambda received: received[-1:] == [status_message(True)])
    connection = transport._client.socket()
    assert connection is not None
    transport._client.loop_stop()
    connection.shutdown(socket.SHUT_RDWR)
    assert listener.wait_for(lambda received: received[-1:] == [status_message(False)])
    listener.stop()


def test_a_broker_without_subscribers_is_told_to_the_owner_and_tried_again_soon(
    outbox: Outbox, broker: Broker, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.put(probes(2))
    # Without the broker's word, the next copy would be sent after ten minutes.
    delivery = Delivery(outbox, MqttTransport(broker.url, TOPICS, resend_s=600.0))
    far_end = FakeIngest(broker, DEVICE)
    delivery.start()
    try:
        assert not delivery.drained(1.0)
        assert any("reports no subscriber" in record.getMessage() for record in caplog.records)
        far_end.start()
        assert delivery.drained(20)
    finally:
        delivery.stop(2.0)
        far_end.stop()


def test_a_receipt_that_makes_no_sense_is_left_aside(
    outbox: Outbox, broker: Broker, probes: Probes
) -> None:
    far_end = FakeIngest(broker, DEVICE)
    far_end.start()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    delivery = Delivery(outbox, far_end.transport())
    delivery.start()
    try:
        for nonsense in (b"", b"{}", b"\xff\x00", b'{"receipts": [], "schema_version": 1}'):
            client.publish(TOPICS.receipt, nonsense, qos=1).wait_for_publish(10)
        outbox.put(probes(1))
        assert delivery.drained(20)
    finally:
        delivery.stop(2.0)
        far_end.stop()
        client.disconnect()
        client.loop_stop()


def test_a_broker_that_turns_the_box_away_is_named_with_its_reason(
    outbox: Outbox, tmp_path: Path, probes: Probes
) -> None:
    program = find_broker()
    keeper = shutil.which("mosquitto_passwd")
    if program is None or keeper is None:
        pytest.skip("mosquitto is not installed")
    passwords = tmp_path / "passwords"
    passwords.touch()
    subprocess.run([keeper, "-b", str(passwords), "box", "right"], check=True, capture_output=True)
    passwords.chmod(0o600)
    broker = Broker(
        Path(program), tmp_path, free_port(), f"password_file {passwords}\nallow_anonymous false\n"
    )
    broker.start()
    try:
        with pytest.raises(Unauthenticated, match="turns this box away"):
            try_broker(broker.url, TOPICS, MqttLogin("box", "wrong"), 10)
        try_broker(broker.url, TOPICS, MqttLogin("box", "right"), 10)
        outbox.put(probes(1))
        delivery = Delivery(outbox, MqttTransport(broker.url, TOPICS, MqttLogin("box", "wrong")))
        delivery.start()
        assert not delivery.drained(1.5)
        assert delivery.complaint is not None
        assert "turns this box away" in delivery.complaint
        delivery.stop(2.0)
        assert outbox.counts().waiting == 1
    finally:
        broker.stop()


def test_a_broker_that_does_not_take_the_boxes_probes_is_named_with_its_reason(
    outbox: Outbox, tmp_path: Path, probes: Probes
) -> None:
    program = find_broker()
    if program is None:
        pytest.skip("mosquitto is not installed")
    rights = tmp_path / "rights"
    rights.write_text(f"topic read {TOPICS.receipt}\ntopic write {TOPICS.status}\n")
    rights.chmod(0o600)
    broker = Broker(
        Path(program), tmp_path, free_port(), f"acl_file {rights}\nallow_anonymous true\n"
    )
    broker.start()
    outbox.put(probes(1))
    delivery = Delivery(outbox, MqttTransport(broker.url, TOPICS))
    delivery.start()
    try:
        wait_until(lambda: delivery.complaint is not None, "delivery complains")
        assert "does not take this box's probes" in str(delivery.complaint)
        assert outbox.counts().waiting == 1
    finally:
        delivery.stop(2.0)
        broker.stop()


def test_a_broker_that_freezes_does_not_hold_a_box_that_is_to_stop(
    outbox: Outbox, broker: Broker, probes: Probes
) -> None:
    far_end = FakeIngest(broker, DEVICE)
    far_end.start()
    delivery = Delivery(outbox, far_end.transport())
    delivery.start()
    stopped = threading.Event()
    try:
        outbox.put(probes(1))
        assert delivery.drained(20)
        broker.freeze()
        outbox.put([make_probe(seed=seed, thumbnail=PICTURE) for seed in range(100)])
        assert not delivery.drained(1.0)
        threading.Thread(target=lambda: (delivery.stop(1.0), stopped.set()), daemon=True).start()
        assert stopped.wait(15), "it waits for a broker that says nothing"
        assert outbox.counts().waiting >= 1
    finally:
        broker.thaw()
        far_end.stop()


def test_what_breaks_in_the_clients_thread_ends_delivery_rather_than_the_road_in_silence(
    outbox: Outbox, broker: Broker, probes: Probes
) -> None:
    far_end = FakeIngest(broker, DEVICE)
    far_end.start()
    over_mqtt = MqttTransport(broker.url, TOPICS)

    def listener(_payload: bytes) -> None:
        raise OSError("the disk is gone")

    over_mqtt.listen("config/desired", listener)
    delivery = Delivery(outbox, over_mqtt)
    delivery.start()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        outbox.put(probes(1))
        assert delivery.drained(20)
        client.publish(TOPICS.of("config/desired"), b"{}", qos=1).wait_for_publish(10)
        outbox.put(probes(1))
        wait_until(lambda: delivery.failure is not None, "delivery fails")
        assert "the disk is gone" in str(delivery.failure)
    finally:
        delivery.stop(2.0)
        far_end.stop()
        client.disconnect()
        client.loop_stop()


# paho leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")
def test_with_tls_both_sides_show_a_certificate(
    outbox: Outbox, tmp_path: Path, probes: Probes
) -> None:
    program = find_broker()
    if program is None:
        pytest.skip("mosquitto is not installed")
    authority, stranger = trustme.CA(), trustme.CA()
    ca, broker_pem, box_pem = (tmp_path / name for name in ("ca.pem", "broker.pem", "box.pem"))
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(broker_pem)
    authority.issue_cert("box@example.org").private_key_and_cert_chain_pem.write_to_path(box_pem)
    other_ca = tmp_path / "other-ca.pem"
    stranger.cert_pem.write_to_path(other_ca)
    broker = Broker(
        Path(program),
        tmp_path,
        free_port(),
        f"cafile {ca}\ncertfile {broker_pem}\nkeyfile {broker_pem}\n"
        "require_certificate true\nallow_anonymous true\n",
    )
    url = f"mqtts://127.0.0.1:{broker.port}"
    box = MqttLogin(ca_file=ca, certificate_file=box_pem, key_file=box_pem)
    broker.start()
    try:
        try_broker(url, TOPICS, box, 10)
        for unknown in (MqttLogin(ca_file=ca), replace(box, ca_file=other_ca)):
            with pytest.raises(Unavailable):
                try_broker(url, TOPICS, unknown, 3)
        outbox.put(probes(1))
        delivery = Delivery(outbox, MqttTransport(url, TOPICS, box))
        delivery.start()
        # Nobody is there to answer for it, but the broker has taken it.
        assert not delivery.drained(1.5)
        assert delivery.complaint is None
        delivery.stop(2.0)
    finally:
        broker.stop()


def test_a_broker_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        try_broker(f"mqtt://127.0.0.1:{free_port()}", TOPICS, MqttLogin(), 5)


@pytest.mark.parametrize("url", ["127.0.0.1", "http://host", "mqtt://", "mqtt://me:secret@host"])
def test_an_impossible_address_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MqttTransport(url, TOPICS)
    assert "secret" not in caught.value.message


def test_a_broker_that_takes_small_packets_gets_probes_without_thumbnails(
    outbox: Outbox, make_broker: Callable[[str], Broker], caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker("allow_anonymous true\nmax_packet_size 6000\n")
    far_end = FakeIngest(broker, DEVICE)
    far_end.start()
    outbox.put([make_probe(thumbnail=PICTURE), make_probe()])
    delivery = Delivery(outbox, far_end.transport())
    delivery.start()
    try:
        assert delivery.drained(20)
    finally:
        delivery.stop(2.0)
        far_end.stop()
    assert far_end.ledger.sequences == [1, 2]
    assert "packets of 6000 bytes at most" in caplog.text


def test_a_probe_that_no_packet_holds_is_a_complaint_and_no_endless_connecting(
    outbox: Outbox, make_broker: Callable[[str], Broker], caplog: pytest.LogCaptureFixture
) -> None:
    broker = make_broker("allow_anonymous true\nmax_packet_size 900\n")
    delivery = Delivery(outbox, MqttTransport(broker.url, TOPICS, resend_s=1.0))
    outbox.put([make_probe()])
    delivery.start()
    try:
        wait_until(
            lambda: "takes packets of 900 bytes" in (delivery.complaint or ""),
            "delivery names the limit of the broker",
        )
    finally:
        delivery.stop(2.0)
    assert outbox.counts().waiting == 1
    assert "Traceback" not in caplog.text


def test_two_boxes_of_one_name_say_so_and_leave_each_other_alone_for_a_while(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    twins = [MqttTransport(broker.url, TOPICS) for _ in range(2)]
    for twin in twins:
        twin.open(lambda: None)
    try:
        wait_until(lambda: "a `device` name of its own" in caplog.text, "the advice is logged")
        wait_until(lambda: any(twin._ready.is_set() for twin in twins), "a twin is connected")
        connected = [twin for twin in twins if twin._ready.is_set()]
        time.sleep(3.0)  # they took turns every second before
        assert [twin for twin in twins if twin._ready.is_set()] == connected
        assert caplog.text.count("a `device` name of its own") <= 2
    finally:
        for twin in twins:
            twin.close(2.0)


@pytest.mark.parametrize(
    "url",
    ["mqtt://host:port", "mqtt://host:99999", "mqtt://[::1", "http://host", "mqtt://", "host"],
)
def test_an_address_that_is_none_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(ConfigurationError, match="the broker's address is mqtt://HOST"):
        MqttTransport(url, TOPICS)


def packet(kind: int, body: bytes) -> bytes:
    return bytes([kind, len(body)]) + body


GARBAGE = {
    "a topic that is no text": packet(0x30, b"\x00\x02\xff\xfe\x00x"),
    "a topic longer than its packet": packet(0x30, b"\xff\xffab"),
    "nothing published": packet(0x30, b""),
    "an unknown property": packet(0x30, b"\x00\x01a\x02\xff\x00x"),
    "a property that is cut off": packet(0x30, b"\x00\x01a\x05\x26\x00\x09ab"),
    "a property that is no text": packet(0x30, b"\x00\x01a\x07\x26\x00\x01\xff\x00\x01\xff"),
    "QoS 3": packet(0x36, b"\x00\x01a\x00\x01\x00x"),
    "a length without end": b"\x30\xff\xff\xff\xff\xff",
    "an acknowledgement of nothing": packet(0x40, b"\x00\x09\x77\x00"),
    "a subscription without reasons": packet(0x90, b"\x00\x01\x00"),
    "a subscription cut short": packet(0x90, b"\x00"),
    "an unknown reason": packet(0xE0, b"\x55\x00"),
    "a second welcome": packet(0x20, b"\x00\x77\x00"),
    "an unknown kind": packet(0xF0, b"\x01\x02"),
    "no kind": packet(0x00, b""),
}


def test_whatever_a_broker_says_the_box_comes_back_to_it() -> None:
    """A false broker accepts the connection, sends something and closes it, twice."""

    def meet(words: bytes) -> tuple[int, object]:
        came = threading.Semaphore(0)

        def greet(caller: socket.socket) -> None:
            with closing(caller), suppress(OSError):
                caller.recv(4096)
                caller.sendall(packet(0x20, b"\x00\x00\x00") + words)
                came.release()
                caller.settimeout(0.5)
                while caller.recv(4096):
                    pass

        with closing(socket.create_server(("127.0.0.1", 0))) as listener:

            def serve() -> None:
                with suppress(OSError):
                    while True:
                        greet(listener.accept()[0])

            threading.Thread(target=serve, daemon=True).start()
            over_mqtt = MqttTransport(f"mqtt://127.0.0.1:{listener.getsockname()[1]}", TOPICS)
            over_mqtt.open(lambda: None)
            met = sum(came.acquire(timeout=15) for _ in range(2))
            over_mqtt.close(0.2)
            return met, over_mqtt._broken

    with ThreadPoolExecutor(len(GARBAGE)) as pool:
        outcomes = dict(zip(GARBAGE, pool.map(meet, GARBAGE.values()), strict=True))
    assert outcomes == dict.fromkeys(GARBAGE, (2, None))
