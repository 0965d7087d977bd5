"""The real processes of the demonstration: broker, server, ingest, agent. All on loopback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

BIN = Path(sys.executable).parent


class DemoError(Exception):
    """The demonstration cannot continue; the message says why."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_broker() -> str | None:
    """Returns the mosquitto binary; on Debian it is outside of a user's PATH."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def running(
    command: list[str],
    log: Path,
    *,
    stop_s: float = 10.0,
    start: type[subprocess.Popen[bytes]] = subprocess.Popen,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a child process until the block ends; its output goes to `log`."""
    with log.open("wb") as output:
        process = start(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(stop_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def broker(work: Path, program: str) -> Iterator[str]:
    """Runs a mosquitto; yields its URL."""
    port = free_port()
    settings = work / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    log = work / "mosquitto.log"
    with running([program, "-c", str(settings)], log) as process:
        _wait_for_port(port, process, log)
        yield f"mqtt://127.0.0.1:{port}"


@contextmanager
def server(
    work: Path, data: Path, port: int, start: type[subprocess.Popen[bytes]] = subprocess.Popen
) -> Iterator[str]:
    """Runs a match server with a new database; yields its URL."""
    log = work / "match-server.log"
    command = [str(BIN / "match-server"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--data-dir", str(data), "--open-page"]
    with running(command, log, start=start) as process:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not _ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"the match server did not start:\n{tail(log)}")
            time.sleep(0.1)
        yield url


def create_key(data: Path, role: str, device: str | None = None) -> str:
    command = [str(BIN / "match-server"), "key", "create", "--role", role, "--json"]
    if device is not None:
        command += ["--device", device]
    answer = subprocess.run([*command, "--data-dir", str(data)], check=True, capture_output=True)
    return str(json.loads(answer.stdout)["key"])


def tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=2).ok
    except requests.RequestException:
        return False


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise DemoError(f"the broker did not start:\n{tail(log)}")
