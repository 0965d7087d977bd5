"""How the HTTP transport handles each response of a server."""

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo.processes import free_port
from edge_agent.delivery.http import HttpTransport
from edge_agent.delivery.worker import Delivery
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.probe import Probe
from shared.errors import ConfigurationError, Forbidden, Unauthenticated, Unavailable
from tests.support.edge_galleries import MovableClock
from tests.support.fake_servers import KEY, FakeHttpServer

Probes = Callable[[int], list[Probe]]


@pytest.fixture
def server() -> Iterator[FakeHttpServer]:
    end = FakeHttpServer(free_port())
    end.start()
    yield end
    end.stop()


def refusing(
    status: int, **headers: str
) -> Callable[[list[Any]], tuple[int, dict[str, str], bytes]]:
    body = json.dumps({"code": "x", "message": "because"}).encode()
    return lambda _: (
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
        body,
    )


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_passing_fault_keeps_the_probes(
    outbox: Outbox, server: FakeHttpServer, probes: Probes, status: int
) -> None:
    outbox.put(probes(2))
    server.answer = refusing(status)
    with pytest.raises(Unavailable, match=f"answered {status}: because"):
        server.transport().exchange(outbox.pending())


def test_the_pause_that_the_server_asks_for_is_passed_on(
    outbox: Outbox, server: FakeHttpServer, probes: Probes
) -> None:
    outbox.put(probes(1))
    server.answer = refusing(429, Retry_After="17")
    with pytest.raises(Unavailable) as caught:
        server.transport().exchange(outbox.pending())
    assert caught.value.details["retry_after_s"] == 17.0


def test_an_unknown_key_is_said_and_nothing_is_lost(
    outbox: Outbox, server: FakeHttpServer, probes: Probes
) -> None:
    outbox.put(probes(1))
    transport = HttpTransport(server.url, "another-key")
    with pytest.raises(Unauthenticated, match="does not know this box's key") as caught:
        transport.exchange(outbox.pending())
    assert "another-key" not in caught.value.message


def test_a_key_without_the_role_is_said(
    outbox: Outbox, server: FakeHttpServer, probes: Probes
) -> None:
    outbox.put(probes(1))
    server.answer = refusing(403)
    with pytest.raises(Forbidden, match="because"):
        server.transport().exchange(outbox.pending())


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_bad_probe_does_not_take_its_batch_along(
    outbox: Outbox, server: FakeHttpServer, probes: Probes, status: int
) -> None:
    outbox.put(probes(4))
    bad = refusing(status)
    server.answer = lambda body: bad(body) if any(one["sequence"] == 3 for one in body) else None
    receipts = server.transport().exchange(outbox.pending())
    assert [receipt.status for receipt in receipts] == ["accepted"] * 2 + ["refused", "accepted"]
    assert server.ledger.sequences == [1, 2, 4]


def test_a_probe_at_which_the_server_breaks_stops_no_other_and_is_not_given_up(
    outbox: Outbox, server: FakeHttpServer, probes: Probes
) -> None:
    """An internal error (500) does not name the probe: only another attempt finds it."""
    clock = MovableClock()
    over_http = HttpTransport(server.url, KEY, clock=clock)
    outbox.put(probes(20))
    broken = refusing(500)
    server.answer = lambda body: broken(body) if any(one["sequence"] == 3 for one in body) else None
    failures = 0
    while outbox.counts().waiting > 1:
        try:
            outbox.settle(over_http.exchange(outbox.pending()))
        except Unavailable:
            failures += 1
            assert failures < 20
    assert sorted(server.ledger.sequences) == [1, 2, *range(4, 21)]
    assert [one.sequence for one in outbox.pending()] == [3]

    server.answer = lambda _: None  # mended
    clock.elapsed_s += 3600
    outbox.settle(over_http.exchange(outbox.pending()))
    assert outbox.counts().waiting == 0
    assert server.ledger.sequences[-1] == 3


def test_a_server_that_breaks_at_everything_gets_everything_in_order_when_it_is_mended(
    outbox: Outbox, server: FakeHttpServer, probes: Probes
) -> None:
    over_http = HttpTransport(server.url, KEY, clock=MovableClock())
    outbox.put(probes(20))
    server.answer = refusing(500)
    for _ in range(5):
        with pytest.raises(Unavailable):
            over_http.exchange(outbox.pending())
    server.answer = lambda _: None
    while outbox.counts().waiting:
        outbox.settle(over_http.exchange(outbox.pending()))
    assert server.ledger.sequences == list(range(1, 21))
    assert len(server.ledger.offers) == 20


def test_an_answer_to_a_part_is_taken_for_that_part(
    outbox: Outbox, server: FakeHttpServer, probes: Probes
) -> None:
    outbox.put(probes(5))

    def every_other(body: list[Any]) -> tuple[int, dict[str, str], bytes]:
        receipts = [server.ledger.receipt(one).model_dump() for one in body[::2]]
        return 200, {}, json.dumps({"probes": receipts}).encode()

    server.answer = every_other
    over_http = server.transport()
    outbox.settle(over_http.exchange(outbox.pending()))
    assert [one.sequence for one in outbox.pending()] == [2, 4]
    outbox.settle(over_http.exchange(outbox.pending()))
    outbox.settle(over_http.exchange(outbox.pending()))
    assert outbox.counts().acknowledged == 5
    assert len(server.ledger.offers) == 5


def test_a_word_of_a_newer_server_is_no_receipt_and_spoils_no_other(
    outbox: Outbox, server: FakeHttpServer, probes: Probes
) -> None:
    outbox.put(probes(2))
    words = itertools.chain(["postponed"], itertools.repeat("accepted"))
    server.answer = lambda body: (
        200,
        {},
        json.dumps(
            {"probes": [{"probe_id": one["probe_id"], "status": next(words)} for one in body]}
        ).encode(),
    )
    outbox.settle(server.transport().exchange(outbox.pending()))
    assert [one.sequence for one in outbox.pending()] == [1]


def test_an_answer_without_end_is_not_read_to_the_end(
    outbox: Outbox, server: FakeHttpServer, probes: Probes
) -> None:
    outbox.put(probes(1))
    server.answer = lambda _: (200, {}, b" " * (5 << 20))
    with pytest.raises(Unavailable, match="far too large"):
        server.transport().exchange(outbox.pending())


@pytest.mark.parametrize("status", [302, 404, 405])
def test_an_address_that_is_no_match_server_keeps_the_probes(
    outbox: Outbox, server: FakeHttpServer, probes: Probes, status: int
) -> None:
    outbox.put(probes(1))
    server.answer = refusing(status, Location="http://127.0.0.1:9/elsewhere")
    with pytest.raises(Unavailable, match="is that a match-server"):
        server.transport().exchange(outbox.pending())


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"probes": []}', b'{"probes": [{}]}'])
def test_an_answer_without_receipts_is_no_acknowledgement(
    outbox: Outbox, server: FakeHttpServer, probes: Probes, body: bytes
) -> None:
    outbox.put(probes(1))
    server.answer = lambda _: (200, {}, body)
    with pytest.raises(Unavailable):
        server.transport().exchange(outbox.pending())


def test_a_server_that_is_not_there_is_unavailable(outbox: Outbox, probes: Probes) -> None:
    outbox.put(probes(1))
    transport = HttpTransport(f"http://127.0.0.1:{free_port()}", KEY)
    with pytest.raises(Unavailable, match="cannot be reached"):
        transport.exchange(outbox.pending())


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://host", "http://", "http://me:secret@host"])
def test_an_impossible_address_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HttpTransport(url, KEY)
    assert "secret" not in caught.value.message


def test_a_server_that_comes_back_gets_everything_and_the_outage_is_said_once(
    outbox: Outbox, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    server = FakeHttpServer(free_port())
    outbox.put(probes(3))
    delivery = Delivery(outbox, server.transport())
    with caplog.at_level(logging.WARNING):
        delivery.start()
        try:
            assert not delivery.drained(2.5)  # several attempts
            server.start()
            assert delivery.drained(20)
        finally:
            delivery.stop(2.0)
            server.stop()
    assert server.ledger.sequences == [1, 2, 3]
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "3 probes wait in the outbox" in line]) == 1
    assert len([line for line in lines if "accepts probes again" in line]) == 1


def test_neither_key_nor_template_is_ever_logged(
    outbox: Outbox, server: FakeHttpServer, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.put(probes(3))
    template = json.loads(outbox.pending()[0].body)["template"]
    server.ledger.refused = {2}
    with caplog.at_level(logging.DEBUG):
        delivery = Delivery(outbox, server.transport())
        delivery.start()
        assert delivery.drained(20)
        delivery.stop(2.0)
    assert KEY not in caplog.text
    assert template[:40] not in caplog.text
