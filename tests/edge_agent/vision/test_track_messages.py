"""Track messages, sent over HTTP and MQTT."""

import threading
from collections.abc import Iterator

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from demo.processes import free_port
from edge_agent.delivery.http import HttpTransport
from edge_agent.delivery.worker import Delivery
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.track_events import TrackChange, TrackQueue
from shared.clock import SystemClock
from shared.ids import new_id
from shared.wire.messages import TrackMessage
from shared.wire.topics import any_device
from tests.support.fake_servers import KEY, Broker, FakeHttpServer, FakeIngest
from tests.support.probes import DEVICE, make_probe


@pytest.fixture
def server() -> Iterator[FakeHttpServer]:
    end = FakeHttpServer(free_port())
    end.start()
    yield end
    end.stop()


def change(in_view: int = 1) -> TrackChange:
    now = SystemClock().now()
    return TrackChange("door", new_id(), "began", now, now, in_view)


def test_track_messages_are_sent_over_http_beside_probes(
    server: FakeHttpServer, outbox: Outbox
) -> None:
    queue = TrackQueue(DEVICE)
    delivery = Delivery(outbox, HttpTransport(server.url, KEY), queue)
    delivery.start()
    outbox.put([make_probe()])
    queue.put([change(1), change(2)])
    assert delivery.drained(20)
    delivery.stop(5)
    assert [(one.device, one.in_view) for one in server.tracks] == [(DEVICE, 1), (DEVICE, 2)]
    assert len(server.ledger.probes) == 1
    assert queue.dropped == 0


@pytest.mark.parametrize("status", [404, 422, 500])
def test_a_server_without_track_messages_still_gets_probes(
    server: FakeHttpServer, outbox: Outbox, status: int
) -> None:
    server.tracks_status = status
    queue = TrackQueue(DEVICE)
    delivery = Delivery(outbox, HttpTransport(server.url, KEY), queue)
    delivery.start()
    queue.put([change()])
    outbox.put([make_probe()])
    assert delivery.drained(20)
    delivery.stop(5)
    assert len(server.ledger.probes) == 1
    assert delivery.complaint is None


def test_unsent_track_messages_are_counted_and_dropped(outbox: Outbox) -> None:
    queue = TrackQueue(DEVICE)
    delivery = Delivery(outbox, HttpTransport(f"http://127.0.0.1:{free_port()}", KEY), queue)
    delivery.start()
    queue.put([change()])
    delivery.stop(5)
    assert queue.dropped == 1
    assert queue.take() == []


@pytest.mark.broker
def test_every_subscriber_of_a_broker_receives_track_messages(
    broker: Broker, outbox: Outbox
) -> None:
    end = FakeIngest(broker, DEVICE)
    end.start()
    received: list[TrackMessage] = []
    listening, messages = threading.Event(), threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_subscribe = lambda *_: listening.set()

    def on_message(_client: object, _data: object, message: paho.MQTTMessage) -> None:
        received.append(TrackMessage.model_validate_json(message.payload))
        messages.set()

    client.on_message = on_message
    client.connect("127.0.0.1", broker.port)
    client.subscribe(any_device("track"), qos=1)
    client.loop_start()
    assert listening.wait(20)
    queue = TrackQueue(DEVICE)
    delivery = Delivery(outbox, end.transport(), queue)
    delivery.start()
    outbox.put([make_probe()])
    assert delivery.drained(20)  # so the connection exists
    queue.put([change(3)])
    assert messages.wait(20)
    assert [one.in_view for one in received] == [3]
    delivery.stop(5)
    client.loop_stop()
    end.stop()
