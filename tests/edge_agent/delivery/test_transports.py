"""The contract of every transport, with a real HTTP server and a real broker."""

import json
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from edge_agent.delivery.worker import Delivery
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.probe import Probe
from tests.support.fake_servers import FakeServer

Probes = Callable[[int], list[Probe]]


@contextmanager
def delivering(outbox: Outbox, far_end: FakeServer) -> Iterator[Delivery]:
    delivery = Delivery(outbox, far_end.transport(), jitter=random.Random(1))
    delivery.start()
    try:
        yield delivery
    finally:
        delivery.stop(2.0)


def test_every_probe_arrives_once_and_in_order(
    outbox: Outbox, far_end: FakeServer, probes: Probes
) -> None:
    outbox.put(probes(70))
    with delivering(outbox, far_end) as delivery:
        outbox.put(probes(3))
        assert delivery.drained(20)
    assert far_end.ledger.sequences == list(range(1, 74))
    counts = outbox.counts()
    assert (counts.acknowledged, counts.refused, counts.waiting) == (73, 0, 0)


def test_a_probe_that_is_put_later_is_delivered_without_asking(
    outbox: Outbox, far_end: FakeServer, probes: Probes
) -> None:
    with delivering(outbox, far_end) as delivery:
        for _ in range(3):
            outbox.put(probes(1))
            assert delivery.drained(20)
    assert far_end.ledger.sequences == [1, 2, 3]


def test_a_refused_probe_is_removed_and_written_down(
    outbox: Outbox, far_end: FakeServer, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    far_end.ledger.refused = {2}
    outbox.put(probes(3))
    with delivering(outbox, far_end) as delivery:
        assert delivery.drained(20)
    assert far_end.ledger.sequences == [1, 3]
    counts = outbox.counts()
    assert (counts.acknowledged, counts.refused, counts.waiting) == (2, 1, 0)
    assert [refusal.code for refusal in outbox.refusals()] == ["model_mismatch"]
    assert any("another model" in record.getMessage() for record in caplog.records)


def test_what_the_server_has_already_is_forgotten_too(
    outbox: Outbox, far_end: FakeServer, probes: Probes
) -> None:
    outbox.put(probes(2))
    for stored in outbox.pending():
        far_end.ledger.receipt(json.loads(stored.body))
    with delivering(outbox, far_end) as delivery:
        assert delivery.drained(20)
    assert len(far_end.ledger.probes) == 2
    assert outbox.counts().acknowledged == 2


def test_a_server_that_is_away_costs_no_probe_and_one_line(
    outbox: Outbox, far_end: FakeServer, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    far_end.ledger.silent = True
    outbox.put(probes(5))
    with delivering(outbox, far_end) as delivery:
        assert not delivery.drained(1.5)
        assert outbox.counts().waiting == 5
        far_end.ledger.silent = False
        assert delivery.drained(20)
    assert sorted(far_end.ledger.sequences) == [1, 2, 3, 4, 5]
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) <= 1


def test_an_answer_to_nothing_that_was_sent_removes_nothing(
    outbox: Outbox, far_end: FakeServer, probes: Probes
) -> None:
    outbox.put(probes(1))
    outbox.acknowledge(["0190a5e0-0000-7000-8000-000000000000"])
    assert outbox.counts().waiting == 1
    with delivering(outbox, far_end) as delivery:
        assert delivery.drained(20)
