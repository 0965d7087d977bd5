"""A real RTSP camera that dies and comes back."""

import logging
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.processes import free_port
from edge_agent.capture.feed import Feed, Manner
from edge_agent.capture.sources import open_source

SYSTEM_PYTHON = "/usr/bin/python3"
NEEDED = (
    "import gi; gi.require_version('GstRtspServer', '1.0');"
    " from gi.repository import Gst; Gst.init(None);"
    " assert Gst.ElementFactory.find('jpegenc') and Gst.ElementFactory.find('rtpjpegpay')"
)


@pytest.fixture
def camera() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts the camera, always on the same port; `args[-1]` of the process is that port."""
    has_all = Path(SYSTEM_PYTHON).exists() and not subprocess.call(
        [SYSTEM_PYTHON, "-c", NEEDED], stderr=subprocess.DEVNULL
    )
    if not has_all:
        pytest.skip(
            "no RTSP server (Debian: gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good)"
        )
    port = str(free_port())
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("rtsp_server.py")
        process = subprocess.Popen([SYSTEM_PYTHON, str(script), port], stdout=subprocess.PIPE)
        started.append(process)
        if process.stdout is None or process.stdout.readline() != b"up\n":
            raise RuntimeError("the RTSP server did not start")
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_network_camera_that_dies_is_said_once_and_comes_back(
    camera: Callable[[], subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    process = camera()
    address = f"rtsp://127.0.0.1:{process.args[-1]}/camera"  # type: ignore[index]
    stop = threading.Event()
    feed = Feed("gate", lambda: open_source(address), Manner(live=True, reconnect=True), stop)
    before = after = 0
    give_up = threading.Timer(60.0, stop.set)
    give_up.start()
    with caplog.at_level(logging.INFO):
        for frame in feed:
            assert frame.size == (320, 240)
            if process.poll() is None and before < 5:
                before += 1
                if before == 5:
                    process.kill()
                    process.wait()
                    threading.Timer(1.0, camera).start()
            elif any("again" in record.getMessage() for record in caplog.records[1:]):
                after += 1
                if after == 3:
                    stop.set()
    give_up.cancel()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"Camera gate: {address} gives no pictures any more; trying again",
        "Camera gate gives pictures again",
    ]
