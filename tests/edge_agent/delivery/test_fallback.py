"""Fallback: a real broker while it works, a real HTTP server while it does not."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from demo.processes import free_port
from edge_agent.delivery.fallback import FallbackTransport
from edge_agent.delivery.mqtt import MqttTransport
from edge_agent.delivery.worker import Delivery
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.probe import Probe
from shared.wire.topics import DeviceTopics
from tests.support.fake_servers import SITE, Broker, FakeHttpServer, FakeIngest
from tests.support.probes import DEVICE
from tests.support.waiting import wait_until

pytestmark = pytest.mark.broker
Probes = Callable[[int], list[Probe]]


class Ends:
    """One server behind both transports, with one ledger of all probes."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.mqtt = FakeIngest(broker, DEVICE)
        self.http = FakeHttpServer(free_port())
        self.http.ledger = self.mqtt.ledger

    @property
    def ledger_ids(self) -> list[str]:
        return [probe.probe_id for probe in self.mqtt.ledger.probes]

    def transport(self) -> FallbackTransport:
        return FallbackTransport(
            self.mqtt.transport(), self.http.transport(), give_up_s=1.0, try_again_s=1.0
        )


@pytest.fixture
def ends(broker: Broker) -> Iterator[Ends]:
    both = Ends(broker)
    yield both
    both.mqtt.stop()
    both.http.stop()


@contextmanager
def delivering(outbox: Outbox, ends: Ends) -> Iterator[Delivery]:
    delivery = Delivery(outbox, ends.transport())
    delivery.start()
    try:
        yield delivery
    finally:
        delivery.stop(2.0)


def test_while_the_broker_works_nothing_goes_over_http(
    outbox: Outbox, ends: Ends, probes: Probes
) -> None:
    ends.mqtt.start()
    ends.http.start()
    with delivering(outbox, ends) as delivery:
        outbox.put(probes(40))
        assert delivery.drained(30)
    assert ends.mqtt.ledger.sequences == list(range(1, 41))
    assert ends.http.requests == []


def test_a_broker_that_dies_under_load_costs_nothing_and_is_taken_again_when_it_is_back(
    outbox: Outbox, ends: Ends, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    ends.mqtt.start()
    ends.http.start()
    enough, ids = threading.Event(), []

    def load() -> None:
        while not enough.wait(0.01):
            some = probes(2)
            outbox.put(some)
            ids.extend(one.probe_id for one in some)

    loader = threading.Thread(target=load)
    with delivering(outbox, ends) as delivery:
        loader.start()
        assert ends.mqtt.ledger.wait_for(lambda: len(ends.mqtt.ledger.probes) > 20)
        ends.broker.stop()
        assert ends.mqtt.ledger.wait_for(lambda: len(ends.http.requests) > 5, 30)
        ends.broker.start()
        over_http = len(ends.http.requests)
        back = lambda: "Using the broker" in caplog.text  # noqa: E731
        assert ends.mqtt.ledger.wait_for(back, 60), f"{len(ends.http.requests) - over_http} more"
        enough.set()
        loader.join()
        assert delivery.drained(60)
    assert sorted(ends.ledger_ids) == sorted(ids)
    assert "using the server" in caplog.text


def test_a_broker_with_nobody_behind_it_is_left_for_the_server(
    outbox: Outbox, ends: Ends, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    ends.http.start()
    outbox.put(probes(5))
    with delivering(outbox, ends) as delivery:
        assert delivery.drained(30)
    assert ends.mqtt.ledger.sequences == [1, 2, 3, 4, 5]
    assert "No server behind the broker" in caplog.text


def test_a_broker_that_freezes_is_left_for_the_server_and_taken_again_when_it_thaws(
    outbox: Outbox, ends: Ends, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker keeps the connection open and is only silent."""
    ends.mqtt.start()
    ends.http.start()
    with delivering(outbox, ends) as delivery:
        outbox.put(probes(3))
        assert delivery.drained(20)
        ends.broker.freeze()
        outbox.put(probes(5))
        assert delivery.drained(60)
        assert "No server behind the broker" in caplog.text
        ends.broker.thaw()
        while "Using the broker" not in caplog.text:
            outbox.put(probes(1))
            assert delivery.drained(60)
    assert sorted(ends.mqtt.ledger.sequences) == list(range(1, outbox.counts().put + 1))


def test_an_address_where_somebody_listens_and_never_speaks_is_no_broker(
    outbox: Outbox, probes: Probes
) -> None:
    http = FakeHttpServer(free_port())
    http.start()
    outbox.put(probes(5))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        first = MqttTransport(
            f"mqtt://127.0.0.1:{mute.getsockname()[1]}", DeviceTopics(SITE, DEVICE)
        )
        delivery = Delivery(outbox, FallbackTransport(first, http.transport(), give_up_s=1.0))
        delivery.start()
        assert delivery.drained(60)
        assert delivery.stop(5.0)
    http.stop()
    assert http.ledger.sequences == [1, 2, 3, 4, 5]


def test_with_both_roads_gone_the_probes_wait_and_the_first_to_come_back_is_taken(
    outbox: Outbox, ends: Ends, probes: Probes
) -> None:
    ends.broker.stop()
    outbox.put(probes(3))
    with delivering(outbox, ends) as delivery:
        assert not delivery.drained(1.0)
        assert outbox.counts().waiting == 3
        ends.http.start()
        assert delivery.drained(60)
        wait_until(lambda: delivery.complaint is None, "the delivery works again")
    assert ends.mqtt.ledger.sequences == [1, 2, 3]
