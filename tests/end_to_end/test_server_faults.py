"""A real server behind a faulty network, while a box stores probes all the time."""

import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from demo.processes import free_port
from edge_agent.config.timeouts import Timeouts
from edge_agent.delivery.http import HttpTransport
from match_server.services.faces.engines import face_engine
from tests.end_to_end.conftest import RunningServer
from tests.support.device import StoringDevice, assert_all_there_once
from tests.support.probes import make_probe
from tests.support.proxy import Network
from tests.support.serving import key as create_key
from tests.support.serving import server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models  # the server names its model by the installed pack
IMPATIENT = Timeouts(connect_s=2.0, silence_s=0.7, request_s=1.5)
WAIT_S = 60.0


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all tests of this file; each has a box of its own."""
    folder = tmp_path_factory.mktemp("server")
    with server(folder, folder / "data", free_port()) as url:
        yield RunningServer(url, folder / "data")


@pytest.fixture
def network(shared_server: RunningServer) -> Iterator[Network]:
    between = Network(urlsplit(shared_server.url).port or 0)
    yield between
    between.close()


@pytest.fixture(scope="module")
def key(shared_server: RunningServer) -> str:
    """A key for boxes of many names."""
    return create_key(shared_server.data, "admin")


@pytest.fixture(scope="module")
def model_id() -> str:
    return face_engine("compact").model_id


NewBox = Callable[..., StoringDevice]


@pytest.fixture
def new_box(network: Network, key: str, model_id: str, tmp_path: Path) -> NewBox:
    def make(name: str, url: str | None = None, timeouts: Timeouts = IMPATIENT) -> StoringDevice:
        transport = HttpTransport(url or network.url, key, timeouts=timeouts)
        return StoringDevice(tmp_path, name, transport, model_id)

    return make


FAULTS: dict[str, Callable[[Network], object]] = {
    "answers 500": lambda network: network.refuse(500),
    "answers 429": lambda network: network.refuse(429, Retry_After="1"),
    "answers 503": lambda network: network.refuse(503),
    "takes everything in and says nothing": lambda network: setattr(network, "manner", "silent"),
    "says half of it and stalls": lambda network: setattr(network, "manner", "half"),
    "drips": lambda network: setattr(network, "manner", "drip"),
    "is cut off": lambda network: network.cut(),
}


def test_whatever_a_server_does_instead_of_answering_nothing_is_lost_or_doubled(
    shared_server: RunningServer, network: Network, new_box: NewBox
) -> None:
    box = new_box("faults")
    acknowledged = lambda: box.outbox.counts().acknowledged  # noqa: E731
    with box.storing(30):
        for fault, happen in FAULTS.items():
            before = acknowledged()
            progress = lambda: acknowledged() > before  # noqa: B023, E731
            wait_until(progress, f"probes go through before the server {fault}")
            happen(network)
            wait_until(
                lambda: box.delivery.complaint is not None,
                f"the box notices that the server {fault}",
            )
            during, stored = acknowledged(), len(box.stored)
            wait_until(lambda: len(box.stored) > stored + 10, "the box goes on storing")  # noqa: B023
            assert acknowledged() == during, f"something was taken for an answer when it {fault}"
            network.mend()
            wait_until(
                lambda: box.delivery.complaint is None,
                f"probes go through after the server {fault}",
            )
    assert box.delivery.drained(WAIT_S), box.delivery.complaint
    assert box.end()
    assert_all_there_once(shared_server.data, box)


def test_a_server_that_asks_for_a_pause_gets_it(network: Network, new_box: NewBox) -> None:
    box = new_box("pause")
    network.refuse(429, Retry_After="2")
    with box.storing(30):
        wait_until(lambda: len(network.request_times_s) >= 3, "the box sends three requests")
    network.mend()
    assert box.delivery.drained(WAIT_S)
    assert box.end()
    first, *later = network.request_times_s
    pauses = [after - before for before, after in itertools.pairwise([first, *later[:2]])]
    assert min(pauses) >= 2.0


def test_a_server_that_says_nothing_does_not_hold_a_box_that_is_to_stop(
    shared_server: RunningServer, network: Network, new_box: NewBox
) -> None:
    box = new_box("stop", timeouts=Timeouts())  # of 20 s
    network.manner = "silent"
    with box.storing(30):
        wait_until(lambda: len(network.request_times_s) > 0, "the box sends a request")
    assert box.end(), "delivery still waits for an answer that does not come"
    assert box.outbox.trouble is None

    network.mend()
    again = new_box("stop")
    again.stored = box.stored
    again.delivery.start()
    assert again.delivery.drained(WAIT_S)
    assert again.end()
    assert_all_there_once(shared_server.data, again)


def test_over_a_thin_line_less_is_sent_at_once_until_it_goes_through(
    shared_server: RunningServer, network: Network, new_box: NewBox, model_id: str
) -> None:
    box = new_box("thin")
    picture = b"\xff\xd8\xff" + bytes(9_000)
    for seed in range(16):
        probe = make_probe(seed=seed, model_id=model_id, thumbnail=picture)
        box.outbox.put([probe])
        box.stored.append(probe.probe_id)
    network.upward = 80_000  # all of them would take three seconds; a request has one and a half
    box.delivery.start()
    assert box.delivery.drained(WAIT_S), box.delivery.complaint
    assert box.end()
    assert_all_there_once(shared_server.data, box)


def test_an_address_where_somebody_listens_and_never_speaks_is_a_server_that_is_away(
    new_box: NewBox,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        box = new_box("mute", url)
        with box.storing(30):
            wait_until(
                lambda: box.delivery.complaint is not None, "the box notices that its requests fail"
            )
        assert "did not respond in time" in str(box.delivery.complaint)
        assert box.outbox.counts().waiting == len(box.stored)
        assert box.end()
