"""The processes as systemd starts them: they report readiness, and then to the watchdog."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.processes import free_port

BIN = Path(sys.executable).parent


class Systemd:
    """The socket on which a service reports, and the services that it started."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "notify"
        self._folder = folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str) -> None:
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(self._path),
            "WATCHDOG_USEC": "3000000",
            "OMP_NUM_THREADS": "1",
        }
        with (self._folder / "log").open("wb") as log:
            self._started.append(
                subprocess.Popen(
                    [str(BIN / command[0]), *command[1:]], env=environment, stdout=log, stderr=log
                )
            )

    def hears(self, word: str, times: int = 1, within_s: float = 90.0) -> bool:
        deadline_s = time.monotonic() + within_s
        while times and (left_s := deadline_s - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                message = self._socket.recv(4096).decode()
            except TimeoutError:
                return False
            times -= word in message
        return times == 0

    def stop(self) -> None:
        for process in self._started:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    one = Systemd(tmp_path)
    yield one
    one.stop()


def test_the_server_reports(systemd: Systemd, tmp_path: Path) -> None:
    systemd.start("match-server", "serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert systemd.hears("READY=1")
    assert systemd.hears("WATCHDOG=1", times=2)


def test_ingest_reports_also_while_there_is_no_broker(systemd: Systemd, tmp_path: Path) -> None:
    nowhere = f"mqtt://127.0.0.1:{free_port()}"
    data = str(tmp_path / "data")
    subprocess.run([BIN / "match-server", "migrate", "--data-dir", data], check=True)
    systemd.start("match-server", "ingest", "--broker", nowhere, "--data-dir", data)
    assert systemd.hears("READY=1")
    assert systemd.hears("WATCHDOG=1", times=2)


@pytest.mark.models
def test_the_agent_reports_also_while_its_camera_is_away(systemd: Systemd, tmp_path: Path) -> None:
    configuration = tmp_path / "agent.toml"
    configuration.write_text(
        f'device = "box"\nstate_dir = "{tmp_path}/state"\n'
        f'[[cameras]]\nname = "door"\nsource = "rtsp://127.0.0.1:{free_port()}/none"\n'
    )
    systemd.start("edge-agent", "run", "--config", str(configuration))
    assert systemd.hears("READY=1")
    assert systemd.hears("WATCHDOG=1", times=2)
