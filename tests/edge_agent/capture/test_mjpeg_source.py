"""MJPEG over HTTP: the formats that cameras use, and invalid streams."""

import contextlib
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from edge_agent.capture.camera import Capture, ReadMode
from edge_agent.capture.source import open_source, read
from edge_agent.config.camera import ConnectionSettings as Settings
from shared.errors import SourceError
from tests.support.camera_login import with_login
from tests.support.mjpeg_camera import MjpegCamera, Write, jpeg, lying_jpeg


@pytest.fixture
def camera() -> Iterator[MjpegCamera]:
    one = MjpegCamera()
    yield one
    one.close()


def levels(camera: MjpegCamera, count: int, connection: Settings | None = None) -> list[int]:
    with contextlib.closing(open_source(camera.url, connection)) as source:
        taken = [read(source) for _ in range(count)]
    return [round(float(one[0].mean())) for one in taken if one is not None]


@pytest.mark.parametrize("with_length", [True, False])
@pytest.mark.parametrize("boundary", ["frame", "--frame"])
def test_pictures_come_in_order_however_the_camera_writes_them(
    camera: MjpegCamera, with_length: bool, boundary: str
) -> None:
    camera.boundary = boundary
    dashes = "" if boundary.startswith("--") else "--"
    expected = threading.Semaphore(0)

    def script(write: Write) -> None:
        for level in (10, 60, 110):
            write(camera.part(jpeg(level), with_length=with_length, dashes=dashes))
            if not with_length:
                write(f"{dashes}{boundary}\r\n".encode())  # only the next boundary ends a picture
            expected.acquire(timeout=10)

    camera.script = script
    with contextlib.closing(open_source(camera.url)) as source:
        for level in (10, 60, 110):
            taken = read(source)
            assert taken is not None
            assert round(float(taken[0].mean())) == pytest.approx(level, abs=2)
            expected.release()


def test_only_the_newest_of_the_received_pictures_is_read(camera: MjpegCamera) -> None:
    sent, done = threading.Event(), threading.Event()

    def script(write: Write) -> None:
        for level in range(0, 200, 10):
            write(camera.part(jpeg(level)))
        sent.set()
        done.wait(10)

    camera.script = script
    with contextlib.closing(open_source(camera.url)) as source:
        sent.wait(10)
        time.sleep(0.1)  # until the loopback has delivered the data
        taken = read(source)
    done.set()
    assert taken is not None
    assert round(float(taken[0].mean())) == pytest.approx(190, abs=2)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(
    "offers",
    [
        ("Basic",),
        ("Digest",),
        ("Digest SHA-256",),
        ("Digest SHA-256", "Digest MD5", "Basic"),
        ("Digest SHA-512-256", "Digest MD5"),
        ("Digest SHA-512-256", "Basic"),
        ("Negotiate", "Digest MD5", "Digest SHA-256"),
    ],
)
def test_name_and_password_open_the_camera_and_stand_in_no_error(
    camera: MjpegCamera, tmp_path: Path, offers: tuple[str, ...], joined: bool
) -> None:
    camera.login, camera.scheme, camera.joined = ("мне", "se cr/ét пароль"), offers, joined
    camera.script = lambda write: write(camera.part(jpeg(90)))
    assert levels(camera, 1, with_login(tmp_path, *camera.login)) == [90]
    in_address = camera.url.replace("://", f"://{quote(':'.join(camera.login), safe=':')}@")
    with contextlib.closing(open_source(in_address)) as source:
        assert read(source) is not None
    with pytest.raises(SourceError, match="401: are name and password right") as caught:
        open_source(camera.url.replace("://", "://me:wrong@"))
    assert "wrong" not in caught.value.message


def test_the_error_names_an_unsupported_or_a_missing_login(
    camera: MjpegCamera, tmp_path: Path
) -> None:
    camera.login, camera.scheme = ("me", "secret"), ("Negotiate", "Digest SHA-512-256")
    with pytest.raises(SourceError, match=r"logins that are not known here \(digest, negotiate\)"):
        open_source(camera.url, with_login(tmp_path, *camera.login))
    camera.scheme = "Basic"
    with pytest.raises(SourceError, match="asks for a name and a password"):
        open_source(camera.url)


@pytest.mark.parametrize(
    "delimiter", ["--other", "frame", "--boundary-of-another-firmware", "other"]
)
@pytest.mark.parametrize("announced", ["frame", None])
def test_another_delimiter_than_the_announced_one_is_read(
    camera: MjpegCamera, delimiter: str, announced: str | None
) -> None:
    camera.content_type = "multipart/x-mixed-replace" + ("; boundary={}" if announced else "")
    head = f"\r\n{delimiter}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
    camera.script = lambda write: write(b"".join(head + jpeg(level) for level in (10, 60)) + head)
    assert levels(camera, 1) == [60]


@pytest.mark.parametrize("fault", ["empty", "huge", "larger than memory", "torn", "no JPEG"])
def test_an_unreadable_picture_is_skipped_without_an_outage(
    camera: MjpegCamera, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {
        "empty": b"",
        "huge": lying_jpeg(65_500, 65_500),
        "larger than memory": lying_jpeg(20_000, 16_000),
        "torn": jpeg(30)[:200],
        "no JPEG": b"hello",
    }[fault]
    taken = threading.Semaphore(0)

    def script(write: Write) -> None:
        for level in (10, 60, 110):
            write(camera.part(bad))
            time.sleep(0.02)  # so that it is not skipped for an older one
            write(camera.part(jpeg(level)))
            taken.acquire(timeout=10)

    camera.script = script
    stop = threading.Event()
    capture = Capture("yard", lambda: open_source(camera.url), ReadMode(True, False), stop)
    seen = []
    for frame in capture:
        seen.append(round(float(frame.image.mean())))
        taken.release()
        if len(seen) == 3:
            stop.set()
    assert seen == pytest.approx([10, 60, 110], abs=2)
    assert camera.viewers == 1
    assert capture.unreadable >= 1
    assert caplog.text.count("unreadable picture") == 1


def test_a_still_picture_is_requested_repeatedly_with_one_login(
    camera: MjpegCamera, tmp_path: Path
) -> None:
    camera.login, camera.scheme = ("me", "secret"), "Digest SHA-256"
    camera.content_type = "image/jpeg"
    shown = iter(range(20, 250, 20))

    def script(write: Write) -> None:
        level = next(shown)
        camera.status = 503 if level == 60 else 200  # of the next response
        write(jpeg(level))

    camera.script = script
    stop = threading.Event()
    connection = with_login(tmp_path, *camera.login, fps=50)
    capture = Capture(
        "yard", lambda: open_source(camera.url, connection), ReadMode(True, False), stop
    )
    seen = []
    for frame in capture:
        seen.append(round(float(frame.image.mean())))
        if len(seen) == 4:
            stop.set()
    assert len(set(seen)) == 4
    assert capture.unreadable == 1, "the camera was busy once"


def test_a_camera_with_a_certificate_of_its_own_is_trusted_by_ca_file_alone(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    camera = MjpegCamera(certificate=certificate.configure_cert)
    try:
        camera.script = lambda write: write(camera.part(jpeg(90)))
        with pytest.raises(SourceError, match=r"no authority that is trusted here.*set the camera"):
            open_source(camera.url)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        assert levels(camera, 1, Settings(ca_file=tmp_path / "ca.pem")) == [90]
    finally:
        camera.close()


def test_pictures_are_read_at_descriptors_beyond_1023(camera: MjpegCamera, gst_launch: str) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1300, limit[1]))
    camera.script = lambda write: [write(camera.part(jpeg(90))) for _ in range(3)]
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        assert levels(camera, 1) == [90]
        spec = "videotestsrc num-buffers=2 ! video/x-raw,width=64,height=48"
        with contextlib.closing(open_source(spec)) as source:
            assert read(source) is not None
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_a_camera_that_sends_nothing_fails_soon(camera: MjpegCamera) -> None:
    over = threading.Event()

    def script(write: Write) -> None:
        write(camera.part(jpeg(90)))
        over.wait(10)

    camera.script = script
    stream = open_source(camera.url, stall_s=0.3)
    stream.grab()
    with pytest.raises(SourceError, match="gives nothing any more"):
        stream.grab()
    over.set()
    stream.close()


def test_a_camera_that_sends_too_slowly_has_stalled(camera: MjpegCamera) -> None:
    over = threading.Event()

    def script(write: Write) -> None:
        for byte in camera.part(jpeg(90)):
            if over.wait(0.05):
                return
            write(bytes([byte]))

    camera.script = script
    stream = open_source(camera.url, stall_s=0.5)
    with pytest.raises(SourceError, match=r"no whole picture in 0\.5 s"):
        stream.grab()
    over.set()
    stream.close()


def test_a_camera_that_closes_the_connection_is_opened_again(camera: MjpegCamera) -> None:
    camera.script = lambda write: [write(camera.part(jpeg(90))) for _ in range(3)] and None
    stop = threading.Event()
    capture = Capture("yard", lambda: open_source(camera.url), ReadMode(True, True), stop)
    for _ in capture:
        if camera.viewers >= 2:
            stop.set()
    assert camera.viewers >= 2


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"x" * 17_000_000, "other data than"),
        (b"--frame\r\nContent-Length: 99999999999\r\n\r\n", "too large"),
        (b"--frame\r\nContent-Length: 5\r\n\r\nhello", "no JPEG"),
        (b"--frame\r\nContent-Length: 0\r\n\r\n", "is empty"),
        (b"--frame\r\n" + b"x" * 20_000, "no end"),
        (b"--fra", "no pictures any more"),
    ],
)
def test_an_invalid_stream_is_refused_in_bounded_memory(
    camera: MjpegCamera, body: bytes, complaint: str
) -> None:
    camera.script = lambda write: write(body)
    with (
        contextlib.closing(open_source(camera.url)) as source,
        pytest.raises(SourceError, match=complaint),
    ):
        read(source)


def test_another_stream_at_an_http_address_is_left_to_ffmpeg(camera: MjpegCamera) -> None:
    camera.content_type = "text/html"
    camera.script = lambda write: write(b"<html>a camera's login page</html>")
    with pytest.raises(SourceError, match="cannot be opened: is it on"):
        open_source(camera.url)


def test_the_error_for_an_unreachable_address_says_why() -> None:
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:9/x cannot be opened: nothing listens"):
        open_source("http://127.0.0.1:9/x")
