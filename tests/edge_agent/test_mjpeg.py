"""JPEGs over HTTP: every way in which cameras write them, and what is wrong with some."""

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from edge_agent.capture.feed import Feed, Manner
from edge_agent.capture.mjpeg import MjpegStream
from edge_agent.capture.sources import open_source, read
from edge_agent.capture.streams import Asked
from shared.errors import SourceError

from .mjpeg_camera import MjpegCamera, Write, jpeg


@pytest.fixture
def camera() -> Iterator[MjpegCamera]:
    one = MjpegCamera()
    yield one
    one.close()


def levels(camera: MjpegCamera, count: int, asked: Asked | None = None) -> list[int]:
    with contextlib.closing(open_source(camera.url, asked)) as source:
        taken = [read(source) for _ in range(count)]
    return [round(float(one[0].mean())) for one in taken if one is not None]


@pytest.mark.parametrize("with_length", [True, False])
@pytest.mark.parametrize("boundary", ["frame", "--frame"])
def test_pictures_come_in_order_however_the_camera_writes_them(
    camera: MjpegCamera, with_length: bool, boundary: str
) -> None:
    camera.boundary = boundary
    dashes = "" if boundary.startswith("--") else "--"
    wanted = threading.Semaphore(0)

    def script(write: Write) -> None:
        for level in (10, 60, 110):
            write(camera.part(jpeg(level), with_length=with_length, dashes=dashes))
            if not with_length:
                write(f"{dashes}{boundary}\r\n".encode())  # only the next mark ends the one before
            wanted.acquire(timeout=10)

    camera.script = script
    with contextlib.closing(open_source(camera.url)) as source:
        for level in (10, 60, 110):
            taken = read(source)
            assert taken is not None
            assert round(float(taken[0].mean())) == pytest.approx(level, abs=2)
            wanted.release()


def test_of_what_has_come_meanwhile_only_the_newest_is_taken(camera: MjpegCamera) -> None:
    sent, done = threading.Event(), threading.Event()

    def script(write: Write) -> None:
        for level in range(0, 200, 10):
            write(camera.part(jpeg(level)))
        sent.set()
        done.wait(10)

    camera.script = script
    with contextlib.closing(open_source(camera.url)) as source:
        sent.wait(10)
        time.sleep(0.1)  # for the loopback to hand over what is written
        taken = read(source)
    done.set()
    assert taken is not None
    assert round(float(taken[0].mean())) == pytest.approx(190, abs=2)


@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
def test_name_and_password_open_it_and_are_never_said(camera: MjpegCamera, scheme: str) -> None:
    camera.login, camera.scheme = ("me", "se cr/et"), scheme
    camera.script = lambda write: write(camera.part(jpeg(90)))
    assert levels(camera, 1, Asked(login=("me", "se cr/et"))) == [90]
    in_address = camera.url.replace("://", "://me:se%20cr%2Fet@")
    with contextlib.closing(open_source(in_address)) as source:
        assert read(source) is not None
    with pytest.raises(SourceError, match="401: are name and password right") as caught:
        open_source(camera.url.replace("://", "://me:wrong@"))
    assert "wrong" not in caught.value.message


def test_a_camera_that_falls_silent_has_failed_soon(camera: MjpegCamera) -> None:
    over = threading.Event()

    def script(write: Write) -> None:
        write(camera.part(jpeg(90)))
        over.wait(10)

    camera.script = script
    stream = MjpegStream.open("cam", camera.url, None, stall_s=0.3)
    assert stream is not None
    stream.grab()
    with pytest.raises(SourceError, match="gives nothing any more"):
        stream.grab()
    over.set()
    stream.close()


def test_a_camera_that_drips_has_stalled_though_it_is_never_silent(camera: MjpegCamera) -> None:
    over = threading.Event()

    def script(write: Write) -> None:
        for byte in camera.part(jpeg(90)):
            if over.wait(0.05):
                return
            write(bytes([byte]))

    camera.script = script
    stream = MjpegStream.open("cam", camera.url, None, stall_s=0.5)
    assert stream is not None
    with pytest.raises(SourceError, match=r"no whole picture in 0\.5 s"):
        stream.grab()
    over.set()
    stream.close()


def test_a_camera_that_hangs_up_is_opened_again(camera: MjpegCamera) -> None:
    camera.script = lambda write: [write(camera.part(jpeg(90))) for _ in range(3)] and None
    stop = threading.Event()
    feed = Feed("yard", lambda: open_source(camera.url), Manner(True, True), stop)
    for _ in feed:
        if camera.viewers >= 2:
            stop.set()
    assert camera.viewers >= 2


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"x" * 17_000_000, "not the pictures"),
        (b"--frame\r\nContent-Length: 99999999999\r\n\r\n", "too large"),
        (b"--frame\r\nContent-Length: 5\r\n\r\nhello", "cannot be read"),
        (b"--frame\r\n" + b"x" * 20_000, "no end"),
        (b"--fra", "no pictures any more"),
    ],
)
def test_what_is_no_row_of_pictures_is_refused_in_bounded_memory(
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


def test_an_address_where_nobody_listens_says_why() -> None:
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:9/x cannot be opened: .*refused"):
        open_source("http://127.0.0.1:9/x")
