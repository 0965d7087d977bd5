"""The systemd units: valid, sandboxed, and installed and removed without remains."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return program


def here(unit: Path, folder: Path) -> Path:
    """Returns the unit with the paths of the tests' installation."""
    copy = folder / unit.name
    programs = str(Path(sys.executable).parent)
    copy.write_text(unit.read_text().replace("/opt/muster/bin", programs))
    return copy


def test_there_is_a_unit_for_each_service() -> None:
    assert {unit.stem for unit in UNITS} == {"edge-agent", "match-server", "match-server-ingest"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_no_fault(unit: Path, analyze: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [analyze, "verify", str(here(unit, tmp_path))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert unit.stem not in done.stderr, done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_shut_in(unit: Path, analyze: str, tmp_path: Path) -> None:
    """At most 2.0 of 10 on systemd's own scale of exposure."""
    done = subprocess.run(
        [
            analyze,
            "security",
            "--offline=true",
            "--threshold=20",
            "--no-pager",
            str(here(unit, tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-300:]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_a_command_that_there_is(unit: Path) -> None:
    (line,) = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
    program, command, *_ = line.removeprefix("ExecStart=").split()
    installed = Path(sys.executable).parent / Path(program).name
    done = subprocess.run([installed, command, "--help"], capture_output=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_that_falls_silent_is_started_again(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert {"Type=notify", "NotifyAccess=main", "WatchdogSec=60", "Restart=on-failure"} <= set(
        lines
    )
    assert any(line.startswith("MemoryMax=") for line in lines)


def script(name: str, *arguments: str, root: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", str(FOLDER / name), *arguments],
        env={**os.environ, "DESTDIR": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def files(root: Path) -> dict[str, int]:
    """Returns every file below a folder, with its time of change."""
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file()
    }


def test_installing_twice_changes_nothing_and_keeps_what_the_owner_wrote(tmp_path: Path) -> None:
    for role in (["server", "--ingest"], ["agent"]):
        done = script("install.sh", *role, "--files", root=tmp_path)
        assert done.returncode == 0, done.stderr
    written = tmp_path / "etc/muster/agent.toml"
    written.write_text("device = 'mine'\n")
    before = files(tmp_path)
    assert set(before) == {
        "etc/muster/agent.env",
        "etc/muster/agent.toml",
        "etc/muster/server.env",
        "etc/muster/server.toml",
        "etc/systemd/system/edge-agent.service",
        "etc/systemd/system/match-server-ingest.service",
        "etc/systemd/system/match-server.service",
        "usr/lib/sysusers.d/muster.conf",
        *(f"usr/local/bin/{name}" for name in ("edge-agent", "face-models", "match-server")),
    }
    assert (tmp_path / "etc/muster/agent.env").stat().st_mode & 0o777 == 0o600
    for name in ("agent.toml", "server.toml"):  # they may hold passwords
        assert (tmp_path / "etc/muster" / name).stat().st_mode & 0o777 == 0o640
    for role in (["server", "--ingest"], ["agent"]):
        assert script("install.sh", *role, "--files", root=tmp_path).returncode == 0
    assert files(tmp_path) == before
    assert written.read_text() == "device = 'mine'\n"


def test_uninstalling_keeps_data_until_it_is_told_to_leave_nothing(tmp_path: Path) -> None:
    script("install.sh", "server", "--ingest", "--files", root=tmp_path)
    script("install.sh", "agent", "--files", root=tmp_path)
    for name in (
        "opt/muster/bin/match-server",
        "var/lib/muster/muster.db",
        "var/lib/muster-agent/o",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert script("uninstall.sh", root=tmp_path).returncode == 0
    assert {name.split("/")[0] for name in files(tmp_path)} == {"etc", "var"}
    assert (tmp_path / "var/lib/muster/muster.db").exists()
    assert script("uninstall.sh", "--all", root=tmp_path).returncode == 0
    assert files(tmp_path) == {}
    assert script("uninstall.sh", "--all", root=tmp_path).returncode == 0


def test_a_command_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "usr/local/bin/match-server"
    other.parent.mkdir(parents=True)
    other.write_text("#!/bin/sh\n")
    assert "Left" in script("install.sh", "server", "--files", root=tmp_path).stderr
    script("uninstall.sh", "--all", root=tmp_path)
    assert set(files(tmp_path)) == {"usr/local/bin/match-server"}


def test_the_settings_file_that_is_installed_names_settings_that_there_are() -> None:
    from match_server.settings import Settings

    text = (FOLDER / "server.toml.example").read_text()
    lines = [line.removeprefix("# ") for line in text.splitlines() if " = " in line]
    assert lines
    assert tomllib.loads("\n".join(lines)).keys() <= Settings.model_fields.keys()


@pytest.mark.parametrize("arguments", [(), ("boat",), ("agent", "--ingest"), ("server", "--ingst")])
def test_the_installer_says_what_it_does_not_understand(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = script("install.sh", *arguments, root=tmp_path)
    assert done.returncode != 0
    assert done.stderr
    assert files(tmp_path) == {}


def test_a_python_that_is_too_old_is_named_before_anything_is_made(tmp_path: Path) -> None:
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["sh", str(FOLDER / "install.sh"), "agent"]
    environment = {**os.environ, "DESTDIR": str(tmp_path / "root"), "PYTHON": str(old)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert not (tmp_path / "root/opt").exists()
