"""A device from enrollment to configuration: real server, broker and agent, a real QR picture."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import requests
import segno
from paho.mqtt.enums import CallbackAPIVersion

from demo.processes import broker, find_broker, free_port
from edge_agent.config.loading import load_settings
from edge_agent.diagnostics.doctor import examine
from models.packs.store import default_cache
from shared.checks import Check
from shared.enrollment_code import new_code
from shared.wire.topics import DeviceTopics
from tests.end_to_end.conftest import RunningServer
from tests.support.launcher import EDGE_AGENT, MATCH_SERVER, run
from tests.support.serving import key as create_key
from tests.support.serving import running, server
from tests.support.waiting import end_of, wait_until
from tests.support.webcam import Webcam

pytestmark = pytest.mark.models
TIMEOUT_S = 60.0
FLEET = "\n[fleet]\nhealth_s = 1\ntrial_s = 6\n"


@pytest.fixture
def webcam() -> Iterator[Webcam]:
    one = Webcam()
    yield one
    one.close()


class Box:
    """A device with its own folder and name."""

    def __init__(
        self, folder: Path, name: str, server: RunningServer, admin: requests.Session
    ) -> None:
        self.folder = folder
        self.name = name
        self.admin = admin
        self.config = folder / "agent.toml"
        self.log = folder / "agent.log"
        self.server = server

    def enroll(self, source: str) -> None:
        """Enrolls by a QR picture in front of the camera."""
        command = [MATCH_SERVER, "device", "code", "--device", self.name, "--json"]
        command += ["--data-dir", str(self.server.data)]
        made = run(command, env={**os.environ, "MUSTER_PUBLIC_URL": self.server.url})
        picture = self.folder / "qr.png"
        segno.make(json.loads(made.stdout)["invitation"], micro=False).save(picture, scale=6)
        command = [EDGE_AGENT, "enroll-device", "--camera", str(picture), "--source", source]
        command += ["--config", str(self.config), "--state-dir", str(self.folder / "state")]
        run(command)
        with self.config.open("a") as config:
            config.write(FLEET)

    def announce(self, source: str) -> None:
        """Configures a key that an admin copied by hand."""
        made = self.admin.post(f"{self.server.url}/v1/devices", json={"name": self.name})
        key_file = self.folder / "server.key"
        key_file.write_text(made.json()["key"])
        self.config.write_text(
            f'device = "{self.name}"\nstate_dir = "{self.folder}/state"\n'
            f'[[cameras]]\nname = "camera"\nsource = "{source}"\n'
            f'[server]\nurl = "{self.server.url}"\nkey_file = "{key_file}"\n{FLEET}'
        )

    def run(self) -> Any:
        return running([EDGE_AGENT, "run", "--config", str(self.config)], self.log)

    def ask(self, method: str, path: str = "", **arguments: Any) -> Any:
        url = f"{self.server.url}/v1/devices/{self.name}{path}"
        response = self.admin.request(method, url, timeout=30, **arguments)
        assert response.ok, response.text
        return response.json()

    def end_of_log(self) -> str:
        return end_of(self.log)

    def desire(self, **config: Any) -> int:
        return int(self.ask("PUT", "/config", json={"config": config})["revision"])

    def state(self, *states: str) -> Any:
        """Waits for one of these states of the configuration; returns what the server knows."""

        def look() -> Any:
            state_of_config = self.ask("GET")["config"]
            return state_of_config if state_of_config["state"] in states else None

        return wait_until(
            look,
            f"the configuration is {' or '.join(states)}",
            details=lambda: f"{self.ask('GET')['config']}\n{end_of(self.log)}",
        )

    def gives_pictures(self, camera: str = "camera") -> Any:
        def look() -> Any:
            health = self.ask("GET")["health"]
            return health and any(
                one["camera"] == camera and one["state"] == "running" and one["frames"] > 5
                for one in health["cameras"]
            )

        return wait_until(look, "the camera gives pictures", details=self.end_of_log)

    def clock_offset_s(self) -> float:
        """Returns the offset that the device measured with its health messages."""

        def look() -> Any:
            return self.ask("GET")["health"]["clock_offset_s"] is not None

        wait_until(look, "the clock offset is measured", details=self.end_of_log)
        return float(self.ask("GET")["health"]["clock_offset_s"])


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all boxes of this file; each has its own name."""
    folder = tmp_path_factory.mktemp("server")
    with server(folder, folder / "data", free_port()) as url:
        yield RunningServer(url, folder / "data")


@pytest.fixture(scope="module")
def admin(shared_server: RunningServer) -> requests.Session:
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {create_key(shared_server.data, 'admin')}"
    return session


@pytest.fixture
def box(tmp_path: Path, shared_server: RunningServer, admin: requests.Session) -> Box:
    folder = tmp_path / "box"
    folder.mkdir()
    return Box(folder, f"box-{new_code()}", shared_server, admin)


def test_a_box_comes_to_its_key_and_a_bad_configuration_is_undone(box: Box, webcam: Webcam) -> None:
    box.enroll(webcam.url)
    assert (box.folder / "state" / "server.key").stat().st_mode & 0o077 == 0
    half_dead = Webcam(viewers=1)  # opens when it is tried, and never again
    with box.run():
        box.gives_pictures()
        assert abs(box.clock_offset_s()) < 1.0  # one machine, one clock
        assert box.ask("GET")["health"]["problems"] == []

        box.desire(shotts={"gate": "off"})
        refused = box.state("refused")
        assert "unknown key 'shotts'; did you mean 'shots'" in refused["message"]
        assert refused["running_revision"] == 0

        good = box.desire(shots={"gate": "off"})
        assert box.state("applied")["running_revision"] == good

        bad = box.desire(cameras=[{"name": "other", "source": half_dead.url}])
        undone = box.state("rolled_back")
        assert (undone["desired_revision"], undone["running_revision"]) == (bad, good)
        assert undone["message"] == "other gave no picture within 6 s"
        box.gives_pictures()
        reported = box.ask("GET", "/config")["reported"]["config"]
        assert reported["shots"]["gate"] == "off"
        assert "server" not in reported

        box.desire()
        assert box.state("applied")["desired_revision"] == bad + 1
    half_dead.close()


def test_a_configuration_with_which_the_agent_dies_is_undone_by_itself(
    box: Box, webcam: Webcam
) -> None:
    box.announce(webcam.url)
    half_dead = Webcam(viewers=1)
    text = box.config.read_text()
    box.config.write_text(text.replace("trial_s = 6", "trial_s = 600"))
    with box.run() as process:
        box.gives_pictures()
        bad = box.desire(cameras=[{"name": "other", "source": half_dead.url}])
        box.state("trying")
        wait_until(
            lambda: "Watching other" in box.log.read_text(), "a trial", details=box.end_of_log
        )
        process.kill()
        process.wait()
    with box.run() as process:
        wait_until(
            lambda: "Watching other" in box.log.read_text(),
            "a second trial",
            details=box.end_of_log,
        )
        process.kill()
        process.wait()
    with box.run():
        undone = box.state("rolled_back")
        assert (undone["desired_revision"], undone["running_revision"]) == (bad, 0)
        assert "started 2 times with it" in undone["message"]
        box.gives_pictures()
    half_dead.close()


@pytest.mark.broker
def test_over_a_broker_it_is_the_same(box: Box, webcam: Webcam, tmp_path: Path) -> None:
    program = find_broker()
    if program is None:
        pytest.skip("mosquitto is not installed (Debian: apt-get install mosquitto)")
    with ExitStack() as stack:
        url = stack.enter_context(broker(tmp_path, program))
        ingest = [MATCH_SERVER, "ingest", "--broker", url]
        ingest += ["--data-dir", str(box.server.data)]
        log = tmp_path / "ingest.log"
        box.config.write_text(
            f'device = "{box.name}"\nstate_dir = "{box.folder}/state"\n'
            f'[[cameras]]\nname = "camera"\nsource = "{webcam.url}"\n'
            f'[broker]\nurl = "{url}"\n[fleet]\nhealth_s = 1\ntrial_s = 6\n'
        )
        stack.enter_context(running(ingest, log))
        stack.enter_context(box.run())
        wait_until(
            lambda: box.admin.get(f"{box.server.url}/v1/devices/{box.name}").ok,
            "the server knows the device",
            details=lambda: end_of(log),
        )
        box.gives_pictures()
        assert abs(box.clock_offset_s()) < 1.0
        assert box.ask("GET")["site"] == "main"
        revision = box.desire(log_level="DEBUG", shots={"max_probes": 2})
        assert box.state("applied")["running_revision"] == revision
        box.desire(shots={"max_probes": 0})
        assert "'shots.max_probes'" in box.state("refused")["message"]
        topic = DeviceTopics("main", box.name).of("config/desired")
        assert retained(url, topic)
        box.ask("DELETE")
        wait_until(
            lambda: not retained(url, topic),
            "the broker forgets the configuration",
            details=lambda: end_of(log),
        )


def retained(url: str, topic: str) -> bytes:
    """Returns the retained message of a topic."""
    payloads: list[bytes] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _client, _data, message: payloads.append(message.payload)
    done: list[int] = []
    client.on_subscribe = lambda *_: done.append(1)
    client.connect("127.0.0.1", int(url.rpartition(":")[2]))
    client.subscribe([(topic, 1)])
    until_s = time.monotonic() + 10
    while time.monotonic() < until_s and not (done and payloads):
        client.loop(0.1)
        if done and not payloads:
            client.loop(0.3)  # retained messages come right behind
            break
    client.disconnect()
    return payloads[0] if payloads else b""


def test_the_doctor_knows_whose_key_it_is(box: Box, webcam: Webcam) -> None:
    box.announce(webcam.url)

    def key() -> Check:
        return next(one for one in examine(load_settings(box.config)) if one.name == "key")

    assert key().state == "well"
    named = f'device = "{box.name}"'
    box.config.write_text(box.config.read_text().replace(named, 'device = "gate"'))
    assert key().state == "bad"
    assert "another device than 'gate'" in key().message


def test_a_box_whose_models_were_damaged_says_so_and_goes_on_when_they_are_whole(
    box: Box, webcam: Webcam, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.announce(webcam.url)
    cache = box.folder / "models"
    shutil.copytree(default_cache() / "compact", cache / "compact")
    embedder = cache / "compact" / "embedder.onnx"
    whole = embedder.read_bytes()
    embedder.write_bytes(whole[:-1000] + bytes(1000))
    monkeypatch.setenv("MUSTER_MODELS_DIR", str(cache))
    monkeypatch.setenv("PATH", str(box.folder / "no npm here"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)

    def complains() -> Any:
        health = box.ask("GET")["health"]
        return health and any("compact is damaged" in one for one in health["problems"])

    with box.run():
        wait_until(complains, "the box reports the damage", details=box.end_of_log)
        embedder.write_bytes(whole)
        box.gives_pictures()
        assert box.ask("GET")["health"]["problems"] == []
