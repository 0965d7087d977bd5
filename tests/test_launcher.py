"""A launched program behaves like one that is started by its script."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.launcher import MATCH_SERVER, Launched, run
from tests.support.serving import started, stopped
from tests.support.waiting import wait_until


def test_output_and_status_are_those_of_the_script(tmp_path: Path) -> None:
    for words in (["--version"], ["key", "list", "--data-dir", "none"], ["nonsense"]):
        command = [MATCH_SERVER, *words]
        script = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        launched = run(command, cwd=tmp_path, check=False)
        assert launched.stdout == script.stdout
        assert launched.stderr == script.stderr
        assert launched.returncode == script.returncode


def test_it_is_a_child_with_an_environment_and_streams_of_its_own(tmp_path: Path) -> None:
    quiet, log = tmp_path / "quiet", tmp_path / "log"
    first, _ = started(tmp_path / "first", quiet, MUSTER_LOG_LEVEL="ERROR")
    second, _ = started(tmp_path / "second", log)
    try:
        for process in (first, second):
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert f"\nPPid:\t{os.getpid()}\n" in status
            assert os.getpgid(process.pid) == os.getpgid(0)
        wait_until(log.read_text, "the second has logged something")
        first.terminate()
        first.stdout.read()  # ends because the second did not inherit it
        assert first.wait(20) == 0
        assert second.poll() is None
    finally:
        stopped(first)
        assert stopped(second, signal.SIGKILL) == -signal.SIGKILL
    assert quiet.read_text() == ""


def test_what_was_read_before_main_is_refused() -> None:
    for name in ("OMP_NUM_THREADS", "LD_PRELOAD", "LC_ALL", "PYTHONWARNINGS"):
        with pytest.raises(ValueError, match=f"{name} is read before `main`"):
            Launched([MATCH_SERVER, "--version"], env={**os.environ, name: "7"})
