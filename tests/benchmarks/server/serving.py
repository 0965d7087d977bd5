"""Starts a real server on loopback, sends load to it, and measures its processor time."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import psutil
import requests

from match_server.settings import Settings
from tests.benchmarks.server.load import Figures, Job
from tests.benchmarks.tables import Row
from tests.support.waiting import wait_until

_LOAD_S = 300  # until a server has read its gallery
_MOST_S = 600  # of one measurement


@contextlib.contextmanager
def served(settings: Settings, *, ready: bool = True) -> Iterator[tuple[psutil.Process, int]]:
    """A real server over the data folder, `ready` or just started; its log goes to a file there."""
    command = [sys.executable, "-c", "from match_server.commands.cli import main; main()", "serve"]
    options = ["--port", "0", "--workers", str(settings.worker_processes)]
    options += ["--threads", str(settings.threads), "--data-dir", str(settings.data_dir)]
    with (
        (settings.data_dir / "log").open("wb") as log,
        ended([*command, *options], stdout=subprocess.PIPE, stderr=log) as server,
    ):
        line = server.stdout.readline().decode() if server.stdout else ""
        result = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if result is None:
            raise RuntimeError(f"the server did not start: {line!r}")
        if ready:
            wait_for(f"http://127.0.0.1:{result[1]}/readyz")
        yield psutil.Process(server.pid), int(result[1])


@contextlib.contextmanager
def ended(command: list[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is terminated at the end."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def wait_for(url: str) -> None:
    """Waits until a server returns 200: its gallery is loaded."""

    def is_ready() -> bool:
        try:
            return requests.get(url, timeout=60).status_code == 200
        except requests.ConnectionError:
            return False

    wait_until(is_ready, f"{url} returns 200", _LOAD_S, poll_s=0.1)


def measured(server: psutil.Process, job: Any, *, client: str = Job.__module__) -> Figures:
    """Runs a job in a process of its own, the module `client`; returns the figures.

    With them is the processor time of the server and of all processes that it started.
    """
    before_s = cpu_s(server)
    done = subprocess.run(
        [sys.executable, "-m", client],
        input=json.dumps(asdict(job)),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_MOST_S,
    )
    figures = Figures(**json.loads(done.stdout))
    share = figures.seconds / (figures.seconds + figures.warm_up_s)
    figures.cpu_s = (cpu_s(server) - before_s) * share
    if not figures.latencies_ms:
        raise RuntimeError(f"no response within {job.seconds} s; give more --seconds")
    return figures


def row_of(figures: Figures) -> Row:
    """The columns that all tables share."""
    times = figures.latencies_ms
    return {
        "requests_per_s": round(len(times) / figures.seconds, 1),
        "p50_ms": round(float(np.median(times)), 2),
        "p99_ms": round(float(np.percentile(times, 99)), 2),
        "server_cpu_ms_a_request": round(figures.cpu_s * 1e3 / len(times), 2),
        "failed": figures.failed,
    }


def cpu_s(server: psutil.Process) -> float:
    """The processor time of a server, its workers, and those that have ended."""
    times = server.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for process in server.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return float(total)
