"""The doctor finds what is wrong, says what to do, and never falls over."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.processes import free_port
from edge_agent.doctor import Finding, examine
from edge_agent.settings import AgentSettings, settings_of

from .far_ends import KEY, Broker, HttpFarEnd


@pytest.fixture
def server() -> Iterator[HttpFarEnd]:
    end = HttpFarEnd(free_port())
    end.start()
    yield end
    end.stop()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "view.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    return path


def box(tmp_path: Path, source: Path | str, **sections: dict[str, object]) -> AgentSettings:
    camera = {"name": "door", "source": str(source)}
    return settings_of(
        {"device": "box-1", "state_dir": tmp_path / "state", "cameras": [camera], **sections}
    )


def findings(settings: AgentSettings) -> dict[str, Finding]:
    """The worst finding on each thing."""
    order = ["well", "doubtful", "bad"]
    worst: dict[str, Finding] = {}
    for finding in examine(settings):
        before = worst.get(finding.what)
        if before is None or order.index(finding.state) > order.index(before.state):
            worst[finding.what] = finding
    return worst


@pytest.mark.models
def test_a_healthy_box_is_well(
    tmp_path: Path, picture: Path, server: HttpFarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_SERVER_KEY", KEY)
    found = findings(box(tmp_path, picture, server={"url": server.url}, outbox={"max_mib": 1}))
    for what in ("camera door", "models", "outbox", "server", "key"):
        assert found[what].state == "well", found[what]
    assert found["camera door"].found.startswith("64 × 48")


def test_every_ill_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_MODELS_DIR", str(tmp_path / "no models here"))
    monkeypatch.setenv("MUSTER_SERVER_KEY", KEY)
    (tmp_path / "state").write_text("a file, not a folder")
    dead = f"http://127.0.0.1:{free_port()}"
    found = findings(box(tmp_path, "/dev/video97", server={"url": dead}))
    assert "is it plugged in" in found["camera door"].found
    assert found["models"].advice == "face-models pull compact"
    assert "state_dir" in found["outbox"].advice
    assert "cannot be reached" in found["server"].found
    assert {found[what].state for what in ("camera door", "models", "outbox", "server")} == {"bad"}


def test_a_covered_lens_is_doubtful(tmp_path: Path) -> None:
    black = tmp_path / "black.png"
    cv2.imwrite(str(black), np.zeros((48, 64, 3), np.uint8))
    assert findings(box(tmp_path, black))["camera door"].state == "doubtful"


def test_a_wrong_key_is_told_from_a_dead_server(
    tmp_path: Path, picture: Path, server: HttpFarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_SERVER_KEY", "another")
    found = findings(box(tmp_path, picture, server={"url": server.url}))
    assert found["server"].state == "well"
    assert found["key"].state == "bad"
    assert "another" not in found["key"].as_text()


def test_a_missing_key_is_named(
    tmp_path: Path, picture: Path, server: HttpFarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUSTER_SERVER_KEY", raising=False)
    found = findings(box(tmp_path, picture, server={"url": server.url}))
    assert "MUSTER_SERVER_KEY" in found["key"].found


@pytest.mark.broker
def test_a_broker_is_tried(tmp_path: Path, picture: Path, broker: Broker) -> None:
    assert findings(box(tmp_path, picture, broker={"url": broker.url}))["broker"].state == "well"
    dead = f"mqtt://127.0.0.1:{free_port()}"
    assert findings(box(tmp_path, picture, broker={"url": dead}))["broker"].state == "bad"


def test_a_box_without_a_way_to_a_server_is_doubtful(tmp_path: Path, picture: Path) -> None:
    assert findings(box(tmp_path, picture))["delivery"].state == "doubtful"
