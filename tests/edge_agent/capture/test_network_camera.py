"""A real RTSP camera: over TCP and UDP, with a login, and one that freezes, dies and comes back."""

import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.processes import free_port
from edge_agent.capture.address import with_login
from edge_agent.capture.camera import Capture, ReadMode
from edge_agent.capture.source import open_source, read
from edge_agent.config.camera import ConnectionSettings as Settings
from shared.errors import SourceError
from tests.support.camera_login import with_login as login_settings
from tests.support.mjpeg_camera import jpeg

LIVE = ReadMode(live=True, reconnect=True)
SYSTEM_PYTHON = "/usr/bin/python3"
NEEDED = (
    "import gi; gi.require_version('GstRtspServer', '1.0');"
    " from gi.repository import Gst; Gst.init(None);"
    " assert Gst.ElementFactory.find('jpegenc') and Gst.ElementFactory.find('rtpjpegpay')"
)
Camera = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def camera() -> Iterator[Camera]:
    """Starts the camera, always on the same port; `args[-1]` of the process is that port."""
    with rtsp_camera() as start:
        yield start


@pytest.fixture
def other_camera() -> Iterator[Camera]:
    with rtsp_camera() as start:
        yield start


@contextlib.contextmanager
def rtsp_camera() -> Iterator[Camera]:
    has_all = Path(SYSTEM_PYTHON).exists() and not subprocess.call(
        [SYSTEM_PYTHON, "-c", NEEDED], stderr=subprocess.DEVNULL
    )
    if not has_all:
        pytest.skip(
            "no RTSP server (Debian: gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good)"
        )
    port = str(free_port())
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> subprocess.Popen[bytes]:
        script = Path(__file__).parents[2] / "support" / "rtsp_server.py"
        command = [SYSTEM_PYTHON, str(script), *options, port]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        started.append(process)
        if process.stdout is None or process.stdout.readline() != b"up\n":
            raise RuntimeError("the RTSP server did not start")
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.communicate()


def address_of(process: subprocess.Popen[bytes]) -> str:
    return f"rtsp://127.0.0.1:{process.args[-1]}/camera"  # type: ignore[index]


def outage(
    address: str,
    fail: Callable[[], None],
    repair: Callable[[], None],
    limit_s: float = 60.0,
    connection: Settings | None = None,
) -> tuple[float, int]:
    """Watches a camera that fails after five frames and is repaired when that was noticed.

    Returns how long the outage was, and the number of frames after it.
    """
    stop, noticed = threading.Event(), threading.Event()
    capture = Capture("gate", lambda: open_source(address, connection), LIVE, stop)
    before = after = 0
    silent_s = 0.0

    def notice() -> None:
        began_s = time.monotonic()
        while capture.state != "lost" and not stop.wait(0.02):
            pass
        nonlocal silent_s
        silent_s = time.monotonic() - began_s
        noticed.set()
        repair()

    give_up = threading.Timer(limit_s, stop.set)
    give_up.start()
    for frame in capture:
        assert frame.size == (320, 240)
        before += not noticed.is_set()
        after += noticed.is_set()
        if before == 5 and not noticed.is_set():
            fail()
            threading.Thread(target=notice, daemon=True).start()
        if after == 3:
            stop.set()
    give_up.cancel()
    return silent_s, after


def test_a_killed_camera_is_logged_once_and_comes_back(
    camera: Camera, caplog: pytest.LogCaptureFixture
) -> None:
    process = camera()

    def die() -> None:
        process.kill()
        process.wait()

    with caplog.at_level(logging.INFO, logger="edge_agent"):
        _, after = outage(address_of(process), die, lambda: camera() and None)
    assert after == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"Camera gate: {address_of(process)} gives no pictures any more; trying again",
        "Camera gate gives pictures again",
    ]


def test_a_camera_that_freezes_with_an_open_connection_is_noticed_and_comes_back(
    camera: Camera,
) -> None:
    process = camera()
    silent_s, after = outage(
        address_of(process),
        lambda: os.kill(process.pid, signal.SIGSTOP),
        lambda: os.kill(process.pid, signal.SIGCONT),
    )
    assert after == 3
    assert silent_s > 1, "a pause of a moment is no failure"


def test_a_killed_camera_over_udp_comes_back_too(camera: Camera) -> None:
    process = camera("--only", "udp")

    def die() -> None:
        process.kill()
        process.wait()

    udp = Settings(transport="udp")
    _, after = outage(
        address_of(process), die, lambda: camera("--only", "udp") and None, connection=udp
    )
    assert after == 3


def test_a_gstreamer_pipeline_whose_camera_dies_is_started_again(
    camera: Camera, gst_launch: str
) -> None:
    process = camera()

    def die() -> None:
        process.kill()
        process.wait()

    pipeline = f"rtspsrc location={address_of(process)} protocols=tcp ! rtpjpegdepay ! jpegdec"
    _, after = outage(pipeline, die, lambda: camera() and None)
    assert after == 3


def test_a_server_that_accepts_and_never_responds_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"rtsp://127.0.0.1:{mute.getsockname()[1]}/camera"
        with pytest.raises(SourceError, match="cannot be opened"):
            open_source(address)


def test_a_slow_reader_gets_the_newest_picture_and_no_queue_grows(
    camera: Camera, tmp_path: Path
) -> None:
    for level in range(250):
        (tmp_path / f"{level:03d}.jpg").write_bytes(jpeg(level, (320, 240)))
    process = camera("--pictures", str(tmp_path))
    stop = threading.Event()
    capture = Capture("gate", lambda: open_source(address_of(process)), LIVE, stop)
    levels: list[int] = []
    give_up = threading.Timer(60, stop.set)
    give_up.start()
    for frame in capture:
        levels.append(round(float(frame.image.mean())))
        if len(levels) == 4:
            stop.set()
        stop.wait(1.0)  # a consumer that takes a second for each picture
    give_up.cancel()
    leaps = [(after - before) % 250 for before, after in itertools.pairwise(levels)]
    assert min(leaps) >= 8, "one further would be a queue; 25 further is a second"
    assert capture.dropped >= 20


def test_several_cameras_run_at_once_and_a_killed_one_stops_no_other(
    camera: Camera, other_camera: Camera, tmp_path: Path
) -> None:
    first, second = camera("--login", "me:secret"), other_camera("--only", "udp")
    stop, first_is_lost = threading.Event(), threading.Event()
    give_up = threading.Timer(60, stop.set)
    give_up.start()
    after: list[int] = []

    def watch_second() -> None:
        connection = Settings(transport="udp")
        capture = Capture("yard", lambda: open_source(address_of(second), connection), LIVE, stop)
        for _ in capture:
            if first_is_lost.is_set():
                after.append(1)
            if len(after) == 10:
                stop.set()

    yard = threading.Thread(target=watch_second)
    yard.start()
    connection = login_settings(tmp_path, "me", "secret")
    gate = Capture("gate", lambda: open_source(address_of(first), connection), LIVE, stop)

    def watch_the_state() -> None:
        while gate.state != "lost" and not stop.wait(0.02):
            pass
        first_is_lost.set()

    for number, _ in enumerate(gate):
        if number == 5:
            first.kill()
            first.wait()
            threading.Thread(target=watch_the_state, daemon=True).start()
    yard.join(30)
    give_up.cancel()
    assert len(after) >= 10


def test_pictures_come_over_udp_where_it_is_configured(camera: Camera) -> None:
    process = camera("--only", "udp")
    with contextlib.closing(open_source(address_of(process), Settings(transport="udp"))) as source:
        taken = read(source)
    assert taken is not None
    assert taken[0].shape == (240, 320, 3)
    assert "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in os.environ
    process.kill()
    process.wait()
    # A camera with TCP only does not open over UDP.
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(address_of(camera("--only", "tcp")), Settings(transport="udp"))


def test_a_camera_opens_with_its_login_alone_and_no_error_holds_it(
    camera: Camera, tmp_path: Path
) -> None:
    address = address_of(camera("--login", "me:se/cr@t"))
    with pytest.raises(SourceError, match="name and password right") as caught:
        open_source(address, login_settings(tmp_path, "me", "wr/o@ng"))
    assert "ng" not in caught.value.message.replace("nothing", "")
    for connection, spec in (
        (login_settings(tmp_path, "me", "se/cr@t"), address),
        (Settings(), with_login(address, ("me", "se/cr@t"))),
    ):
        with contextlib.closing(open_source(spec, connection)) as source:
            assert read(source) is not None
