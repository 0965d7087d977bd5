"""Parts that the edge agent's tests share: probes, far ends, films."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.processes import find_broker, free_port
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.probe import Probe
from tests.support.fake_servers import Broker, FakeHttpServer, FakeIngest, FakeServer
from tests.support.probes import DEVICE, make_probe


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "outbox.db", DEVICE)
    yield box
    box.close()


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[[str], Broker]]:
    """Starts a real mosquitto with these lines in its configuration; it keeps its sessions."""
    program = find_broker()
    if program is None:
        pytest.skip("mosquitto is not installed (Debian: apt-get install mosquitto)")
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    started: list[Broker] = []

    def make(extra: str) -> Broker:
        started.append(Broker(Path(program), folder, free_port(), extra))
        started[-1].start()
        return started[-1]

    yield make
    for broker in started:
        broker.stop()


@pytest.fixture
def broker(make_broker: Callable[[str], Broker]) -> Broker:
    """One that can be stopped and started again."""
    return make_broker("")


@pytest.fixture(params=["http", pytest.param("mqtt", marks=pytest.mark.broker)])
def far_end(request: pytest.FixtureRequest) -> Iterator[FakeServer]:
    """The server as a transport sees it, once behind HTTP and once behind a real broker."""
    end: FakeServer
    if request.param == "http":
        end = FakeHttpServer(free_port())
    else:
        end = FakeIngest(request.getfixturevalue("broker"), DEVICE)
    end.start()
    yield end
    end.stop()


@pytest.fixture
def probes() -> Callable[[int], list[Probe]]:
    return lambda count: [make_probe(seed=seed) for seed in range(count)]


@pytest.fixture
def gst_launch() -> str:
    program = shutil.which("gst-launch-1.0")
    if program is None:
        pytest.skip("gst-launch-1.0 is not installed (Debian: gstreamer1.0-tools)")
    subprocess.run([program, "--version"], check=True, capture_output=True)
    return program
