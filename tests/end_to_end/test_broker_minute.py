"""Time without the broker, under load: real mosquitto, ingest and server, and real kills.

Half a minute here, a minute in `./dev bench faults`.
"""

import sqlite3
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from demo.processes import find_broker, free_port
from edge_agent.delivery.fallback import FallbackTransport
from edge_agent.delivery.http import HttpTransport
from edge_agent.delivery.mqtt import MqttTransport
from match_server.services.faces.engines import face_engine
from shared.wire.topics import DeviceTopics
from tests.support.device import StoringDevice, assert_all_there_once
from tests.support.fake_servers import Broker
from tests.support.launcher import MATCH_SERVER
from tests.support.serving import key as create_key
from tests.support.serving import running, server
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.models, pytest.mark.broker]
OUTAGE_S = 30.0
A_SECOND = 5.0  # of each of four boxes
IN_FLIGHT = 64
WAIT_S = 240.0


def ingest(folder: Path, data: Path, url: str) -> AbstractContextManager[object]:
    command = [MATCH_SERVER, "ingest", "--broker", url, "--data-dir", str(data)]
    return running(command, folder / "ingest.log")


@dataclass(frozen=True, slots=True)
class Moment:
    """The numbers of a device at one moment."""

    stored: int
    acknowledged: int

    @classmethod
    def of(cls, box: StoringDevice) -> Self:
        return cls(len(box.stored), box.outbox.counts().acknowledged)


def is_back(box: StoringDevice) -> bool:
    return box.transport.name.startswith("broker") and box.delivery.complaint is None


def late_events(data: Path, box: StoringDevice) -> set[str]:
    """Returns the probes of a device that came too late to act on."""
    database = sqlite3.connect(data / "muster.db")
    try:
        rows = database.execute(
            "SELECT probes.id FROM probes JOIN events ON events.id = event_id"
            " WHERE probes.device = ? AND NOT live",
            (box.name,),
        )
        return {probe_id for (probe_id,) in rows}
    finally:
        database.close()


def test_time_without_the_broker_under_load_costs_nothing(tmp_path: Path) -> None:
    if find_broker() is None:
        pytest.skip("mosquitto is not installed (Debian: apt-get install mosquitto)")
    stop_brokers_under_load(tmp_path, OUTAGE_S)


def stop_brokers_under_load(tmp_path: Path, outage_s: float) -> None:
    """Two brokers, one that writes down what it knows and one that forgets. Each has two boxes, one
    that can fall back to the server and one that waits. All at once, as the time is long.

    Raises AssertionError when a probe is lost, or treated as a recent one.
    """
    program = find_broker()
    assert program is not None
    model_id = face_engine("compact").model_id
    data = tmp_path / "data"
    with ExitStack() as stack:
        url = stack.enter_context(server(tmp_path, data, free_port()))
        brokers: list[Broker] = []
        waiting: list[StoringDevice] = []
        falling_back: list[StoringDevice] = []
        for forgetful in (False, True):
            name = "forgets" if forgetful else "remembers"
            folder = tmp_path / name
            folder.mkdir()
            broker = Broker(Path(program), folder, free_port(), forgetful=forgetful)
            broker.start()
            stack.callback(broker.stop)
            stack.enter_context(ingest(folder, data, broker.url))
            brokers.append(broker)
            over_mqtt = partial(MqttTransport, broker.url)
            alone = over_mqtt(DeviceTopics("main", f"{name}-waits"))
            helped = FallbackTransport(
                over_mqtt(DeviceTopics("main", f"{name}-falls-back")),
                HttpTransport(url, create_key(data, "device", f"{name}-falls-back")),
                try_again_s=5.0,
            )
            waiting.append(StoringDevice(folder, f"{name}-waits", alone, model_id))
            falling_back.append(StoringDevice(folder, f"{name}-falls-back", helped, model_id))
        boxes = [*waiting, *falling_back]
        for box in boxes:
            stack.callback(box.end)
        with ExitStack() as load:
            for box in boxes:
                load.enter_context(box.storing(A_SECOND))
            for box in boxes:
                delivers = lambda: box.outbox.counts().acknowledged > 20  # noqa: B023, E731
                wait_until(delivers, f"{box.name} delivers", WAIT_S)
            for broker in brokers:
                broker.kill()
            gone = {box.name: Moment.of(box) for box in boxes}
            time.sleep(outage_s)
            back = {box.name: Moment.of(box) for box in boxes}
            for broker in brokers:
                broker.start()
            for box in boxes:
                stored = len(box.stored)
                stores = lambda: len(box.stored) > stored + 10  # noqa: B023, E731
                wait_until(stores, f"{box.name} goes on storing", WAIT_S)
                wait_until(
                    lambda: is_back(box),  # noqa: B023
                    f"{box.name} delivers again",
                    WAIT_S,
                    details=lambda: str(box.delivery.complaint),  # noqa: B023
                )
        for box in boxes:
            assert box.delivery.drained(WAIT_S), f"{box.name}: {box.delivery.complaint}"
            assert box.transport.name.startswith("broker")
            assert_all_there_once(data, box)
        for box in boxes:
            stored = back[box.name].stored - gone[box.name].stored
            delivered = back[box.name].acknowledged - gone[box.name].acknowledged
            assert stored > outage_s, "tens a second of all boxes, on the slowest machine one each"
            if box in waiting:
                assert delivered <= IN_FLIGHT, "what had been answered in the last moment"
                old = box.stored[gone[box.name].stored :][: int(stored / 3)]
                assert set(old) <= late_events(data, box), "nobody opens a door by them"
            else:
                assert delivered > stored / 2, "the server was asked meanwhile"
