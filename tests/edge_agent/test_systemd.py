"""The units: systemd finds no fault in them, and they are shut in."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[2] / "systemd").glob("*.service"))


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return program


def here(unit: Path, folder: Path) -> Path:
    """The unit as it would be if the program were installed where the tests run."""
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
