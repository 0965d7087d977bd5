"""Faults below the agent: a device that disappears, a child process that is killed."""

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

from edge_agent.capture.camera import Capture, ReadMode
from edge_agent.capture.opencv_source import open_usb_camera
from edge_agent.capture.source import Source, open_source
from edge_agent.config.camera import ConnectionSettings as Settings
from shared.errors import SourceError

WIDTH, HEIGHT = 128, 48


class Device:
    """A camera behind a replacement of rpicam-vid that reads a FIFO instead of a sensor."""

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


class UsbCapture:
    """What OpenCV gives for a V4L2 camera, which this machine has none of: as long as the device
    is there it gives pictures, then reading fails, as it does when the kernel says ENODEV."""

    opened: ClassVar[int] = 0

    def __init__(self, path: str, _api: int) -> None:
        self._node = Path(path)
        self._is_open = self._node.exists()
        UsbCapture.opened += self._is_open

    def isOpened(self) -> bool:  # noqa: N802  # OpenCV's name
        return self._is_open

    def set(self, _what: int, _value: float) -> bool:
        return True

    def get(self, _what: int) -> float:
        return 0.0

    def grab(self) -> bool:
        time.sleep(0.01)
        self._is_open = self._is_open and self._node.exists()
        return self._is_open

    def retrieve(self) -> tuple[bool, object]:
        return self._is_open, np.full((HEIGHT, WIDTH, 3), 90, np.uint8)

    def release(self) -> None:
        self._is_open = False


def unplugged_and_back(
    open_camera: Callable[[], Source], pull_out: Callable[[], None], plug_in: Callable[[], None]
) -> tuple[Capture, int, str | None]:
    """The capture, the number of pictures after the outage, and the error during it."""
    stop = threading.Event()
    give_up = threading.Timer(60, stop.set)
    give_up.start()
    capture = Capture("door", open_camera, ReadMode(live=True, reconnect=True), stop)
    assert capture.state == "starting"
    errors: list[str | None] = []
    before = after = 0

    def plug_in_again() -> None:
        while capture.state != "lost" and not stop.wait(0.02):
            pass
        errors.append(capture.error)
        plug_in()

    for frame in capture:
        assert frame.size == (WIDTH, HEIGHT)
        assert capture.state == "running"
        if not errors:
            before += 1
        else:
            after += 1
        if before == 5:
            pull_out()
            threading.Thread(target=plug_in_again, daemon=True).start()
            before += 1
        if after == 5:
            stop.set()
    give_up.cancel()
    assert capture.state == "ended"
    assert capture.error is None
    assert capture.last_frame_at is not None
    return capture, after, errors[0]


def test_a_camera_that_is_unplugged_comes_back_when_it_is_plugged_in_again(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    connection = Settings(width=WIDTH, height=HEIGHT)
    _, after, errors = unplugged_and_back(
        lambda: open_source("rpicam:0", connection), device.pull_out, device.plug_in
    )
    assert after == 5
    assert str(errors).startswith("rpicam:0 gives no pictures any more")
    assert caplog.messages[-1] == "Camera door gives pictures again"


def test_a_usb_camera_whose_device_vanishes_is_opened_again_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", UsbCapture)
    monkeypatch.setattr(UsbCapture, "opened", 0)
    node = tmp_path / "video0"
    node.touch()
    _, after, errors = unplugged_and_back(
        lambda: open_usb_camera(str(node), Settings(width=WIDTH, height=HEIGHT)),
        node.unlink,
        node.touch,
    )
    assert after == 5
    assert UsbCapture.opened == 2
    assert str(errors).startswith((f"{node} gives no pictures", f"there is no camera {node}"))
    assert caplog.messages[-1] == "Camera door gives pictures again"


def test_a_killed_child_process_is_a_camera_that_failed(device: Device) -> None:
    source = open_source("rpicam:0", Settings(width=WIDTH, height=HEIGHT))
    source.grab()
    source._child.send_signal(signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match="no pictures any more"):
        deque(iter(source.grab, None))  # the frames that are already in the pipe
    source.close()
