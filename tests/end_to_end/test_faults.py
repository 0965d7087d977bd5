"""Death and broken networks between box and server: no probe is lost, none is counted twice."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edge_agent.delivery.http import HttpTransport
from edge_agent.delivery.worker import Delivery
from edge_agent.outbox.outbox import Outbox
from match_server.services.faces.engines import face_engine
from tests.end_to_end.conftest import RunningServer
from tests.support import device_runs
from tests.support.probes import DEVICE
from tests.support.proxy import Network
from tests.support.serving import key as create_key
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models  # the server names its model by the installed pack
ROOT = Path(__file__).parents[2]
RUNS = 100


class Box:
    """One box that dies and comes back."""

    def __init__(self, folder: Path, url: str, key: str) -> None:
        self.outbox = folder / "outbox.db"
        self.url, self.key = url, key
        self._ids = folder / "ids"
        self._ids.touch()
        model_id = face_engine("compact").model_id
        self._parent = subprocess.Popen(
            [sys.executable, "-m", device_runs.__name__, str(self.outbox), url, key, model_id],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def live(self) -> int:
        """Begins a life; answers its process."""
        if self._parent.stdin is None or self._parent.stdout is None:
            raise RuntimeError("the box has no pipes")
        self._parent.stdin.write(f"{self._ids}\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    @property
    def stored(self) -> list[str]:
        """Ids of what the box said to be stored; the last line may be half written."""
        return [line for line in self._ids.read_text().split("\n") if len(line) == 36]

    def store_something(self) -> None:
        """Waits until the present life has said that something is stored."""
        before = self._ids.stat().st_size
        wait_until(lambda: self._ids.stat().st_size != before, "a probe is stored", poll_s=0.002)

    def deliver_the_rest(self) -> None:
        outbox = Outbox(self.outbox, DEVICE)
        delivery = Delivery(outbox, HttpTransport(self.url, self.key))
        delivery.start()
        try:
            assert delivery.drained(120), delivery.complaint
        finally:
            delivery.stop(5)
            outbox.close()

    def end(self) -> None:
        self._parent.kill()
        self._parent.communicate()


@pytest.fixture
def network(running_server: RunningServer) -> Iterator[Network]:
    between = Network(urlsplit(running_server.url).port or 0)
    yield between
    between.close()


@pytest.fixture
def box(running_server: RunningServer, network: Network, tmp_path: Path) -> Iterator[Box]:
    one = Box(tmp_path, network.url, create_key(running_server.data, "device", DEVICE))
    yield one
    one.end()


def arrived(server: RunningServer) -> list[tuple[str, int]]:
    """Ids and numbers of the probes that the server has, in the order of the numbers."""
    database = sqlite3.connect(server.data / "muster.db")
    try:
        return database.execute("SELECT id, sequence FROM probes ORDER BY sequence").fetchall()
    finally:
        database.close()


def assert_all_there_once(server: RunningServer, box: Box) -> None:
    there = arrived(server)
    ids, numbers = [probe_id for probe_id, _ in there], [number for _, number in there]
    assert len(set(ids)) == len(ids)
    assert set(box.stored) <= set(ids), "a probe that was stored never arrived"
    # What is there besides was stored in the moment of a death, before it could be said.
    assert len(ids) - len(box.stored) <= 3 * RUNS
    assert numbers == list(range(1, len(numbers) + 1)), "a number was given twice, or is missing"


def test_a_box_killed_a_hundred_times_loses_and_doubles_nothing(
    running_server: RunningServer, box: Box
) -> None:
    chance = random.Random(2026)
    for number in range(RUNS):
        life = box.live()
        if number % 4:  # others die while they open the outbox
            box.store_something()
        time.sleep(chance.uniform(0.0, 0.15))
        os.kill(life, signal.SIGKILL)
    box.deliver_the_rest()
    assert len(box.stored) > 2 * RUNS
    assert_all_there_once(running_server, box)


def test_a_network_that_breaks_in_the_middle_of_words_loses_and_doubles_nothing(
    running_server: RunningServer, box: Box, network: Network
) -> None:
    chance = random.Random(2027)
    life = box.live()
    for _ in range(15):
        box.store_something()
        time.sleep(chance.uniform(0.05, 0.4))
        network.cut()
        time.sleep(chance.uniform(0.0, 0.1))
        network.mend()
    os.kill(life, signal.SIGKILL)
    box.deliver_the_rest()
    assert len(box.stored) > 100
    assert_all_there_once(running_server, box)
