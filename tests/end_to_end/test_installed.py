"""The installer, run for real in a clean Debian, and what it starts, under the units as shipped."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from demo.processes import free_port
from tests.support import debian
from tests.support.debian import Debian
from tests.support.waiting import wait_until
from tests.support.webcam import Webcam

SOURCE = Path(__file__).parents[2]
FOLDERS = ("shared", "models", "edge_agent", "match_server", "systemd")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
INSTALLER = "/src/systemd/install.sh"
MODELS = "/var/lib/muster-agent/models"
WHOLE_S = 120.0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Debian]:
    """A clean Debian with a checkout in /src, in which an older version was once built."""
    if (reason := debian.why_not()) is not None:
        pytest.skip(reason)
    with debian.booted(tmp_path) as one:
        source = one.root / "src"
        for name in FOLDERS:
            shutil.copytree(SOURCE / name, source / name)
        for name in FILES:
            shutil.copyfile(SOURCE / name, source / name)
        left = source / "build/lib/shared/deleted_module.py"
        left.parent.mkdir(parents=True)
        left.touch()
        yield one


@pytest.fixture
def camera() -> Iterator[Webcam]:
    one = Webcam()
    yield one
    one.close()


def in_the_checkout(machine: Debian) -> set[str]:
    return {str(path.relative_to(machine.root)) for path in (machine.root / "src").rglob("*")}


def test_a_clean_debian_becomes_a_box_and_a_server(machine: Debian, camera: Webcam) -> None:
    """One test, as installing takes most of its time: what a newcomer does, in that order."""
    for program in ("npm", "node", "cc", "gcc"):
        assert not machine.run("sh", "-c", f"command -v {program} || true")
    before = in_the_checkout(machine)

    output = machine.run("sh", INSTALLER, "agent")
    assert "fetching npm, which is not installed, for the moment" in output
    assert output.splitlines()[-1].endswith("systemctl enable --now edge-agent")
    assert not list((machine.root / "opt").rglob("deleted_module*"))
    assert in_the_checkout(machine) == before, "nothing is built in the checkout"
    left = machine.run(
        "find", "/opt", "/root", "/tmp", "/var", "(", "-name", "nodejs*", "-o", "-name", ".npm", ")"
    )
    assert not left, "nothing of npm is kept"
    assert (machine.root / "etc/muster/agent.toml").stat().st_mode & 0o777 == 0o640

    port = free_port()
    with (machine.root / "etc/muster/server.env").open("w") as settings:
        settings.write(f"MUSTER_PORT={port}\n")
    assert "journalctl -fu match-server" in machine.run("sh", INSTALLER, "server")
    server = Server(machine, f"http://127.0.0.1:{port}")
    enrolled(machine, server, camera)
    desired = {"models": {"detector": "centerface"}}
    server.ask("PUT", "/devices/door/config", json={"config": desired})
    wait_until(
        lambda: server.ask("GET", "/devices/door")["config"]["state"] == "applied",
        "the configuration is applied",
        WHOLE_S,
        details=server.journal,
    )
    a_damaged_pack_is_mended(machine)
    wait_until(
        lambda: server.ask("GET", "/devices/door")["online"],
        "the box is online",
        WHOLE_S,
        details=server.journal,
    )

    assert "sudo" in machine.run(
        "setpriv", "--reuid=nobody", "match-server", "key", "list", check=False
    )
    machine.run("sh", "/src/systemd/uninstall.sh", "--all")
    for path in ("opt/muster", "etc/muster", "var/lib/muster", "usr/local/bin/match-server"):
        assert not (machine.root / path).exists()


class Server:
    """The service, asked with a key that root made on the machine."""

    def __init__(self, machine: Debian, url: str) -> None:
        self._machine = machine
        self.url = url
        wait_until(self._is_ready, "the server is ready", WHOLE_S, details=self.journal)
        # In a folder of root's: the key is made on the service's data all the same.
        made = machine.run("match-server", "key", "create", "--role", "admin", "--json")
        self._headers = {"Authorization": f"Bearer {json.loads(made)['key']}"}
        assert not (machine.root / "muster-data").exists()
        machine.run("match-server", "doctor")

    def ask(self, method: str, path: str, **body: Any) -> Any:
        response = requests.request(
            method, f"{self.url}/v1{path}", headers=self._headers, timeout=10, **body
        )
        assert response.ok, response.text
        return response.json()

    def journal(self) -> str:
        journals = (self._machine.journal(unit)[-3000:] for unit in ("match-server", "edge-agent"))
        return "\n".join(journals)

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=2).ok
        except requests.RequestException:
            return False


def enrolled(machine: Debian, server: Server, camera: Webcam) -> None:
    """The box has its key and a camera, is well, and runs."""
    made = machine.run("match-server", "device", "code", "--device", "door", "--json")
    code = json.loads(made)["code"]
    machine.run("edge-agent", "enroll-device", "--server", server.url, code)
    file = machine.root / "etc/muster/agent.toml"
    status = file.stat()
    file.write_text(file.read_text().replace('source = "/dev/video0"', f'source = "{camera.url}"'))
    assert (status.st_mode & 0o777, status.st_uid) == (0o640, 0)
    for name, value in machine.environment.items():  # how pip reaches its index here
        with (machine.root / "etc/muster/agent.env").open("a") as settings:
            settings.write(f"{name}={value}\n")
    machine.run("edge-agent", "doctor")
    machine.run("systemctl", "enable", "--now", "edge-agent")
    wait_until(
        lambda: server.ask("GET", "/devices/door")["online"],
        "the box is online",
        WHOLE_S,
        details=server.journal,
    )


def a_damaged_pack_is_mended(machine: Debian) -> None:
    """By the agent itself, under its unit, which has no npm and a read-only system."""
    machine.run("systemctl", "stop", "edge-agent")
    embedder = machine.root / MODELS.lstrip("/") / "compact/embedder.onnx"
    whole = embedder.read_bytes()
    with embedder.open("r+b") as opened:
        opened.write(bytes(1000))
    machine.run("systemctl", "start", "edge-agent")
    wait_until(
        lambda: "The pack compact is whole again" in machine.journal("edge-agent"),
        "the agent mends the pack",
        WHOLE_S,
        details=lambda: machine.journal("edge-agent"),
    )
    assert embedder.read_bytes() == whole
