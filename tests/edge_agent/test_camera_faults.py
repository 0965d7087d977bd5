"""What goes wrong below the agent: a device that vanishes, a child process that dies."""

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.capture.feed import Feed, Manner
from edge_agent.capture.sources import open_source
from edge_agent.capture.streams import Asked
from shared.errors import SourceError

WIDTH, HEIGHT = 64, 48


class Device:
    """A camera behind a stand-in for rpicam-vid: it reads a FIFO as the real one does a sensor."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "sensor"
        program = folder / "rpicam-vid"
        program.write_text(
            "#!/bin/sh\n"
            'while [ $# -gt 1 ]; do [ "$1" = --output ] && out=$2; shift; done\n'
            f'[ -p "{self.path}" ] || {{ echo "ERROR: no cameras available" >&2; exit 1; }}\n'
            f'exec cat "{self.path}" > "$out"\n'
        )
        program.chmod(0o755)
        self._plugged = False

    def plug_in(self) -> None:
        os.mkfifo(self.path)
        self._plugged = True
        threading.Thread(target=self._give, daemon=True).start()

    def pull_out(self) -> None:
        self._plugged = False
        self.path.unlink()

    def _give(self) -> None:
        frame = b"\x90" * (WIDTH * HEIGHT) + b"\x80" * (WIDTH * HEIGHT // 2)
        with contextlib.suppress(OSError), self.path.open("wb", buffering=0) as sensor:
            while self._plugged:
                sensor.write(frame)
                time.sleep(0.01)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    one = Device(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    one.plug_in()
    yield one
    if one.path.exists():
        one.pull_out()


def test_a_camera_that_is_unplugged_comes_back_when_it_is_plugged_in_again(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()
    give_up = threading.Timer(60, stop.set)
    give_up.start()
    feed = Feed(
        "door",
        lambda: open_source("rpicam:0", Asked(size=(WIDTH, HEIGHT))),
        Manner(live=True, reconnect=True),
        stop,
    )
    assert feed.state == "starting"
    states, before, after = [], 0, 0

    def plug_in_again() -> None:
        while feed.state != "lost" and not stop.wait(0.02):
            pass
        states.append((feed.state, feed.error))
        device.plug_in()

    for frame in feed:
        assert frame.size == (WIDTH, HEIGHT)
        assert feed.state == "running"
        if not states:
            before += 1
        else:
            after += 1
        if before == 5:
            device.pull_out()
            threading.Thread(target=plug_in_again, daemon=True).start()
            before += 1
        if after == 5:
            stop.set()
    give_up.cancel()
    assert after == 5
    ((state, error),) = states
    assert state == "lost"
    assert error is not None
    assert error.startswith("rpicam:0 gives no pictures any more")
    assert feed.state == "ended"
    assert feed.error is None
    assert feed.last_frame_at is not None
    assert caplog.messages[-1] == "Camera door gives pictures again"


def test_a_child_that_is_killed_is_a_camera_that_failed(device: Device) -> None:
    source = open_source("rpicam:0", Asked(size=(WIDTH, HEIGHT)))
    source.grab()
    source._child.send_signal(signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match="no pictures any more"):
        deque(iter(source.grab, None))  # what is in the pipe still comes
    source.close()
