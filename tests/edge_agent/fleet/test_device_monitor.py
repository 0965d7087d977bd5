"""The device monitor: the load limits the cameras, health and configurations reach the server."""

import dataclasses
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.agent import Agent
from edge_agent.factory import build_agent
from edge_agent.fleet.clock_offset import ClockOffset
from edge_agent.fleet.device import Device
from edge_agent.fleet.device_monitor import DeviceMonitor
from edge_agent.fleet.hardware import Readings
from edge_agent.fleet.remote_config import Configurations
from edge_agent.fleet.server_link import Desired
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.recognition_ledger import Ledger
from shared.errors import Unavailable
from shared.wire.device import DesiredConfig, HealthMessage, ReportedConfig
from tests.support.fake_faces import FakeFaces
from tests.support.probes import make_probe
from tests.support.waiting import wait_until

COOL = Readings(
    temperature_c=45.0,
    throttled=False,
    load_1m=0.5,
    processors=4,
    memory_bytes=150_000_000,
    memory_free_bytes=None,
    disk_free_bytes=None,
)


class SetClock:
    def __init__(self) -> None:
        self.at_s = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 22, 12, 0, tzinfo=UTC) + timedelta(seconds=self.at_s)

    def monotonic_s(self) -> float:
        return self.at_s


class SetSensors:
    def __init__(self) -> None:
        self.readings = COOL

    def read(self) -> Readings:
        return self.readings


class RecordingLink:
    """A link that records all messages, or raises Unavailable."""

    def __init__(self) -> None:
        self.away = False
        self.called = 0
        self.health: list[HealthMessage] = []
        self.reports: list[ReportedConfig] = []
        self.desired: Desired = lambda _: None

    def open(self, desired: Desired) -> None:
        self.desired = desired

    def send_health(self, message: HealthMessage) -> None:
        self._record()
        self.health.append(message)

    def send_report(self, report: ReportedConfig) -> None:
        self._record()
        self.reports.append(report)

    def _record(self) -> None:
        self.called += 1
        if self.away:
            raise Unavailable("nobody is there")


@dataclasses.dataclass
class Watch:
    """A device monitor and a clock that the test sets."""

    monitor: DeviceMonitor
    agent: Agent
    clock: SetClock
    sensors: SetSensors
    offset: ClockOffset
    links: list[RecordingLink]

    def pass_s(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.at_s += 1.0
            self.monitor.step()

    def until(self, decided: Callable[[], bool]) -> None:
        """Waits while another process tries a configuration."""
        wait_until(lambda: self.monitor.step() or decided(), "the configuration is decided")


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    cv2.imwrite(str(tmp_path / "view.png"), np.zeros((48, 64, 3), np.uint8))
    config = tmp_path / "agent.toml"
    config.write_text(
        f'device = "box-1"\nstate_dir = "{tmp_path}"\n'
        f'[[cameras]]\nname = "door"\nsource = "{tmp_path}/view.png"\n'
    )
    clock = SetClock()
    configurations = Configurations(config, clock)
    settings = configurations.begin()
    outbox = Outbox(settings.outbox_path, settings.device)
    ledger = Ledger(settings.ledger_path)
    agent = build_agent(settings, FakeFaces(lambda _: []), outbox, None, ledger=ledger)
    sensors, offset, links = SetSensors(), ClockOffset(clock), [RecordingLink(), RecordingLink()]
    device = Device(settings, sensors, clock, offset, started_s=-100.0)
    monitor = DeviceMonitor(device, agent, "model@1", configurations, links)
    monitor.open_links()
    yield Watch(monitor, agent, clock, sensors, offset, links)
    agent.close()


def test_health_comes_every_thirty_seconds_over_the_first_link_that_leads_somewhere(
    watch: Watch,
) -> None:
    watch.agent.outbox.put([make_probe(seed=1)])
    watch.pass_s(3)
    watch.links[0].away = True
    watch.pass_s(60)
    watch.links[1].away = True
    watch.pass_s(30)  # not delivered, and not queued
    watch.links[0].away = watch.links[1].away = False
    watch.pass_s(30)
    assert [len(link.health) for link in watch.links] == [2, 2]
    first = watch.links[0].health[0]
    assert (first.device, first.model_id, first.waiting) == ("box-1", "model@1", 1)
    assert first.uptime_s == pytest.approx(102, abs=2)
    assert [camera.camera for camera in first.cameras] == ["door"]
    assert first.memory_free_bytes is None


def test_a_server_that_does_not_listen_is_asked_ever_more_seldom(watch: Watch) -> None:
    for link in watch.links:
        link.away = True
    watch.pass_s(600)
    assert 10 < watch.links[0].called < 60  # health every 30 s, the report as seldom in the end
    for link in watch.links:
        link.away = False
    watch.pass_s(31)
    assert [one.state for one in watch.links[0].reports] == ["applied"]


def test_heat_turns_the_cameras_down_and_is_told(watch: Watch) -> None:
    watch.sensors.readings = dataclasses.replace(COOL, temperature_c=88.0)
    watch.pass_s(35)
    (camera,) = watch.agent.cameras
    assert {"liveness", "occlusion"} <= set(camera.pipeline.load_profile.reductions)
    watch.pass_s(30)
    assert camera.capture.max_fps == 1.0
    message = watch.links[0].health[-1]
    assert message.temperature_c == 88.0
    assert message.gave_up == camera.pipeline.load_profile.reductions
    watch.sensors.readings = COOL
    watch.pass_s(600)
    assert camera.pipeline.load_profile.reductions == watch.links[0].health[-1].gave_up == []
    assert camera.capture.max_fps is None


def test_a_clock_that_is_off_and_the_ledger_are_told(watch: Watch) -> None:
    assert watch.agent.ledger is not None
    watch.agent.ledger.enter("door", watch.clock.now(), "yaw")
    watch.agent.ledger.enter("door", watch.clock.now(), None)
    mark = watch.offset.mark()
    watch.offset.answered(mark, watch.clock.now() - timedelta(seconds=42))
    watch.pass_s(3)
    (message,) = watch.links[0].health
    assert message.clock_offset_s == pytest.approx(-42.0)
    assert "42.0 s ahead of the server's" in message.problems[0]
    (day,) = message.ledger
    assert (day.camera, day.tracks, day.with_probe, day.reasons) == ("door", 2, 1, {"yaw": 1})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"site": "mine"}, "'site' is set in the box's own file only"),
        ({"shots": {"margin": 7}}, "'shots.margin'"),
        ({"cameras": [{"name": "x", "source": "/nowhere/film.mp4"}]}, "there is no /nowhere"),
    ],
)
def test_what_cannot_be_run_with_is_refused_without_touching_the_cameras(
    watch: Watch, config: dict[str, object], reason: str
) -> None:
    reports = watch.links[0].reports
    watch.links[1].desired(DesiredConfig(revision=4, config=config))
    watch.until(lambda: bool(reports) and reports[-1].tried == 4)
    report = reports[-1]
    assert (report.state, report.tried, report.revision) == ("refused", 4, 0)
    assert reason in str(report.message)
    assert not watch.agent.replaced.is_set()
    count = len(reports)
    watch.links[1].desired(DesiredConfig(revision=4, config=config))
    watch.pass_s(1)
    assert len(reports) == count + 1, "it is reported again, and not tried again"


def test_a_good_one_is_tried_apart_and_then_the_next_run_begins(watch: Watch) -> None:
    watch.links[0].desired(DesiredConfig(revision=1, config={"shots": {"gate": "off"}}))
    watch.until(watch.agent.replaced.is_set)
    assert watch.agent.stopping.is_set()
    assert watch.links[0].reports[-1].state == "trying"
