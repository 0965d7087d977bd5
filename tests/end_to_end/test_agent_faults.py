"""The real agent with a full disk at its start, and a camera that fails and returns."""

import contextlib
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import RunningServer
from tests.support.disks import SmallDisk, small_disk
from tests.support.launcher import EDGE_AGENT, Launched
from tests.support.serving import key as create_key
from tests.support.waiting import end_of, wait_until
from tests.support.webcam import Webcam

pytestmark = pytest.mark.models
WAIT_S = 120.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", kilobytes=2048) as disk:
        yield disk


def arrived(server: RunningServer) -> list[int]:
    with contextlib.closing(sqlite3.connect(server.data / "muster.db")) as database:
        rows = database.execute("SELECT sequence FROM probes ORDER BY sequence").fetchall()
    return [number for (number,) in rows]


def test_an_agent_outlives_a_full_disk_and_a_camera_that_goes_away(
    running_server: RunningServer, passers_by: Webcam, disk: SmallDisk, tmp_path: Path
) -> None:
    ballast = disk.fill()
    key, log, config = (tmp_path / name for name in ("key", "agent.log", "agent.toml"))
    key.write_text(create_key(running_server.data, "device", "box-1"))
    config.write_text(
        f'device = "box-1"\nstate_dir = "{disk.folder}"\n[shots]\ngate = "off"\n'
        f'[[cameras]]\nname = "door"\nsource = "{passers_by.url}"\n'
        f'[server]\nurl = "{running_server.url}"\nkey_file = "{key}"\n'
    )
    with log.open("wb") as output:
        agent = Launched(
            [EDGE_AGENT, "run", "--config", str(config)],
            stdout=output,
            stderr=output,
        )

    def wait_for_agent(condition: Callable[[], bool], what: str) -> None:
        ended = lambda: agent.poll() is not None  # noqa: E731
        wait_until(lambda: ended() or condition(), what, WAIT_S, details=lambda: end_of(log))
        assert not ended(), end_of(log)

    try:
        wait_for_agent(
            lambda: "takes nothing at the moment" in log.read_text(),
            "the agent reports the full disk",
        )
        wait_for_agent(lambda: "Watching door" in log.read_text(), "the cameras are watched")
        wait_for_agent(lambda: passers_by.viewers > 0, "the camera has a viewer")
        time.sleep(5.0)  # somebody has passed by
        assert arrived(running_server) == []
        ballast.unlink()
        wait_for_agent(lambda: len(arrived(running_server)) >= 2, "two probes arrive")

        passers_by.close()
        wait_for_agent(
            lambda: "gives no pictures any more; trying" in log.read_text(),
            "the agent misses the camera",
        )
        before = len(arrived(running_server))
        back = Webcam(pictures=passers_by.pictures, port=passers_by.port)
        wait_for_agent(
            lambda: "gives pictures again" in log.read_text(), "the camera gives pictures again"
        )
        wait_for_agent(lambda: len(arrived(running_server)) > before, "a probe arrives again")
    finally:
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0, end_of(log)
    back.close()
    assert log.read_text().count("takes nothing at the moment") == 1
    assert "works again" in log.read_text()
    numbers = arrived(running_server)
    assert numbers == list(range(1, len(numbers) + 1))
