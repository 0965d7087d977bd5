"""Parts that the edge agent's tests share: probes, far ends, films."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from demo.processes import find_broker, free_port
from edge_agent.outbox import Outbox
from edge_agent.probes import Probe
from shared.ids import new_id
from shared.quality import Quality
from shared.template import Template, unit_rows

from .far_ends import Broker, FarEnd, HttpFarEnd, MqttFarEnd

DEVICE = "box-1"


def make_probe(*, seed: int = 0, thumbnail: bytes | None = None) -> Probe:
    vector = unit_rows(np.random.default_rng(seed).normal(size=(1, 512)))[0]
    return Probe(
        probe_id=new_id(),
        camera="door",
        captured_at=datetime(2026, 11, 22, 12, 0, tzinfo=UTC),
        track_id=new_id(),
        template=Template("test@1", vector),
        quality=Quality(score=0.5),
        pose=None,
        liveness=0.5,
        detection_score=0.9,
        box=(1.0, 2.0, 30.0, 40.0),
        frame_size=(640, 480),
        thumbnail=thumbnail,
    )


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "outbox.db", DEVICE)
    yield box
    box.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A real mosquitto that can be stopped and started again; it keeps its sessions."""
    program = find_broker()
    if program is None:
        pytest.skip("mosquitto is not installed (Debian: apt-get install mosquitto)")
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    broker = Broker(Path(program), folder, free_port())
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(params=["http", pytest.param("mqtt", marks=pytest.mark.broker)])
def far_end(request: pytest.FixtureRequest) -> Iterator[FarEnd]:
    """The server as a transport sees it, once behind HTTP and once behind a real broker."""
    end: FarEnd
    if request.param == "http":
        end = HttpFarEnd(free_port())
    else:
        end = MqttFarEnd(request.getfixturevalue("broker"), DEVICE)
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
