"""The doctor finds problems, says what to do, and never fails itself."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.processes import free_port
from edge_agent.config.loading import settings_of
from edge_agent.config.settings import AgentSettings
from edge_agent.diagnostics.doctor import examine
from shared.checks import Check
from tests.support.fake_servers import KEY, Broker, FakeHttpServer


@pytest.fixture
def server() -> Iterator[FakeHttpServer]:
    end = FakeHttpServer(free_port())
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


@contextmanager
def says(answers: dict[str, object]) -> Iterator[str]:
    """Starts a server with these responses by path; 404 for every other path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            known = self.path in answers
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answers.get(self.path)).encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def findings(settings: AgentSettings) -> dict[str, Check]:
    """Returns the worst check by name."""
    order = ["well", "doubtful", "bad"]
    worst: dict[str, Check] = {}
    for finding in examine(settings):
        before = worst.get(finding.name)
        if before is None or order.index(finding.state) > order.index(before.state):
            worst[finding.name] = finding
    return worst


@pytest.mark.models
def test_a_healthy_box_is_well(
    tmp_path: Path, picture: Path, server: FakeHttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_SERVER_KEY", KEY)
    checks = findings(box(tmp_path, picture, server={"url": server.url}, outbox={"max_mib": 1}))
    for what in ("camera door", "models", "outbox", "server", "key"):
        assert checks[what].state == "well", checks[what]
    assert checks["camera door"].message.startswith("64 × 48")


def test_every_ill_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_MODELS_DIR", str(tmp_path / "no models here"))
    monkeypatch.setenv("MUSTER_SERVER_KEY", KEY)
    (tmp_path / "state").write_text("a file, not a folder")
    dead = f"http://127.0.0.1:{free_port()}"
    checks = findings(box(tmp_path, "/dev/video97", server={"url": dead}))
    assert "is it plugged in" in checks["camera door"].message
    assert "face-models pull compact" in checks["models"].as_text()
    assert "state_dir" in checks["outbox"].advice
    assert "nothing listens there" in checks["server"].message
    assert {checks[what].state for what in ("camera door", "models", "outbox", "server")} == {"bad"}


def test_a_covered_lens_is_doubtful(tmp_path: Path) -> None:
    black = tmp_path / "black.png"
    cv2.imwrite(str(black), np.zeros((48, 64, 3), np.uint8))
    assert findings(box(tmp_path, black))["camera door"].state == "doubtful"


def test_a_wrong_key_is_told_from_a_dead_server(
    tmp_path: Path, picture: Path, server: FakeHttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_SERVER_KEY", "another")
    checks = findings(box(tmp_path, picture, server={"url": server.url}))
    assert checks["server"].state == "well"
    assert checks["key"].state == "bad"
    assert "another" not in checks["key"].as_text()


@pytest.mark.models
def test_models_that_are_not_the_agreed_ones_are_said_to_be_others(
    tmp_path: Path, picture: Path
) -> None:
    check = findings(box(tmp_path, picture, models={"embedder_sha256": "0" * 64}))["models"]
    assert check.state == "bad"
    assert "should have an embedder" in check.message
    assert "embedder_sha256" in check.advice


@pytest.mark.models
@pytest.mark.parametrize(
    ("required", "state"), [("compact-mobilefacenet-512@1", "well"), ("another@1", "bad")]
)
def test_a_server_that_searches_templates_of_another_model_is_named(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, required: str, state: str
) -> None:
    monkeypatch.setenv("MUSTER_SERVER_KEY", KEY)
    answers = {
        "/readyz": {"status": "ready"},
        "/v1/probes": [],
        "/v1/devices/box-1/config": {"searches": {"collection": "staff", "model_id": required}},
    }
    with says(answers) as url:
        checks = findings(box(tmp_path, picture, server={"url": url}))
    assert checks["key"].state == "well"
    assert checks["models"].state == state
    if state == "bad":
        assert "'staff' holds another@1" in checks["models"].message


def test_an_address_at_which_something_else_answers_is_told_apart(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_SERVER_KEY", KEY)
    with says({}) as url:
        checks = findings(box(tmp_path, picture, server={"url": url}))
    assert "another server" in checks["server"].message
    assert "key" not in checks


def test_a_missing_key_is_named(
    tmp_path: Path, picture: Path, server: FakeHttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUSTER_SERVER_KEY", raising=False)
    checks = findings(box(tmp_path, picture, server={"url": server.url}))
    assert "MUSTER_SERVER_KEY" in checks["key"].message


@pytest.mark.broker
def test_a_broker_is_tried(tmp_path: Path, picture: Path, broker: Broker) -> None:
    assert findings(box(tmp_path, picture, broker={"url": broker.url}))["broker"].state == "well"
    dead = f"mqtt://127.0.0.1:{free_port()}"
    assert findings(box(tmp_path, picture, broker={"url": dead}))["broker"].state == "bad"


def test_a_box_without_a_way_to_a_server_is_doubtful(tmp_path: Path, picture: Path) -> None:
    assert findings(box(tmp_path, picture))["delivery"].state == "doubtful"


def test_no_password_of_a_camera_is_shown_whatever_its_address_looks_like(tmp_path: Path) -> None:
    port = free_port()
    sources = [
        f"http://127.0.0.1:{port}/cgi?cmd=snapPicture2&usr=admin&pwd=secret",
        f"rtsp://admin:hun/secret@127.0.0.1:{port}/live",
        f"rtsp://admin:p@secret@127.0.0.1:{port}/live",
        f"rtsp://127.0.0.1:{port}/user=admin&password=secret",
        f"rtps://admin:secret@127.0.0.1:{port}/live",
        f"admin:secret@127.0.0.1:{port}/live",
    ]
    for source in sources:
        finding = next(iter(examine(box(tmp_path, source))))
        assert finding.state == "bad"
        assert "127.0.0.1" in finding.message, "the host is shown"
        assert "secret" not in finding.as_text()


def test_rows_that_a_board_pads_though_nobody_expects_it_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for rpicam-vid that pads 1280 pixels to 1536."""
    frame = np.random.default_rng(0).integers(0, 255, 1536 * 720 * 3 // 2, np.uint8)
    (tmp_path / "frame").write_bytes(frame.tobytes())
    program = tmp_path / "rpicam-vid"
    program.write_text(
        "#!/bin/sh\n"
        'while [ $# -gt 1 ]; do [ "$1" = --output ] && out=$2; shift; done\n'
        f'[ "$out" = - ] && exec cat {tmp_path}/frame\n'
        f'exec cat {tmp_path}/frame {tmp_path}/frame > "$out"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    finding = next(iter(examine(box(tmp_path, "rpicam:0"))))
    assert finding.state == "bad"
    assert "rows have 1536 bytes instead of 1280" in finding.message
