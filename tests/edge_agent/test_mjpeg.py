"""A camera that gives JPEGs over HTTP, real enough to be wrong in the ways that cameras are."""

import contextlib
import hashlib
import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from edge_agent.capture.feed import Feed, Manner
from edge_agent.capture.mjpeg import MjpegStream
from edge_agent.capture.sources import open_source, read
from edge_agent.capture.streams import Asked
from shared.errors import SourceError


def jpeg(level: int, size: tuple[int, int] = (64, 48)) -> bytes:
    done, data = cv2.imencode(".jpg", np.full((size[1], size[0], 3), level, np.uint8))
    assert done
    return data.tobytes()


class Camera:
    """Serves what `script` writes to each new viewer; `login` is asked for by `scheme`."""

    def __init__(self) -> None:
        self.script: Callable[[Callable[[bytes], None]], None] = lambda write: None
        self.boundary = "frame"
        self.content_type = "multipart/x-mixed-replace; boundary={}"
        self.login: tuple[str, str] | None = None
        self.scheme = "Basic"
        self.viewers = 0
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not camera._may_see(self.headers.get("Authorization", "")):
                    self.send_response(401)
                    extra = ', nonce="abc", qop="auth"' if camera.scheme == "Digest" else ""
                    self.send_header("WWW-Authenticate", f'{camera.scheme} realm="cam"{extra}')
                    self.end_headers()
                    return
                camera.viewers += 1
                self.send_response(200)
                kind = camera.content_type.format(camera.boundary)
                self.send_header("Content-Type", kind)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    camera.script(self.wfile.write)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}/video"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def part(self, level: int, *, with_length: bool = True, dashes: str = "--") -> bytes:
        data = jpeg(level)
        length = f"Content-Length: {len(data)}\r\n" if with_length else ""
        head = f"{dashes}{self.boundary}\r\nContent-Type: image/jpeg\r\n{length}\r\n"
        return head.encode() + data + b"\r\n"

    def _may_see(self, said: str) -> bool:
        if self.login is None:
            return True
        name, password = self.login
        if self.scheme == "Basic":
            return said == "Basic " + b64encode(f"{name}:{password}".encode()).decode()
        given = dict(re.findall(r'(\w+)="?([^",]+)"?', said))
        md5 = lambda text: hashlib.md5(text.encode()).hexdigest()  # noqa: E731
        expected = md5(
            f"{md5(f'{name}:cam:{password}')}:abc:{given.get('nc')}:{given.get('cnonce')}:auth:"
            f"{md5('GET:/video')}"
        )
        return given.get("response") == expected


@pytest.fixture
def camera() -> Iterator[Camera]:
    one = Camera()
    yield one
    one.close()


def levels(camera: Camera, count: int, asked: Asked | None = None) -> list[int]:
    with contextlib.closing(open_source(camera.url, asked)) as source:
        taken = [read(source) for _ in range(count)]
    return [round(float(one[0].mean())) for one in taken if one is not None]


@pytest.mark.parametrize("with_length", [True, False])
@pytest.mark.parametrize("boundary", ["frame", "--frame"])
def test_pictures_come_in_order_however_the_camera_writes_them(
    camera: Camera, with_length: bool, boundary: str
) -> None:
    camera.boundary = boundary
    dashes = "" if boundary.startswith("--") else "--"
    wanted = threading.Semaphore(0)

    def script(write: Callable[[bytes], None]) -> None:
        for level in (10, 60, 110):
            write(camera.part(level, with_length=with_length, dashes=dashes))
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


def test_of_what_has_come_meanwhile_only_the_newest_is_taken(camera: Camera) -> None:
    sent, done = threading.Event(), threading.Event()

    def script(write: Callable[[bytes], None]) -> None:
        for level in range(0, 200, 10):
            write(camera.part(level))
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
def test_name_and_password_open_it_and_are_never_said(camera: Camera, scheme: str) -> None:
    camera.login, camera.scheme = ("me", "se cr/et"), scheme
    camera.script = lambda write: write(camera.part(90))
    assert levels(camera, 1, Asked(login=("me", "se cr/et"))) == [90]
    in_address = camera.url.replace("://", "://me:se%20cr%2Fet@")
    with contextlib.closing(open_source(in_address)) as source:
        assert read(source) is not None
    with pytest.raises(SourceError, match="401: are name and password right") as caught:
        open_source(camera.url.replace("://", "://me:wrong@"))
    assert "wrong" not in caught.value.message


def test_a_camera_that_falls_silent_has_failed_soon(camera: Camera) -> None:
    over = threading.Event()

    def script(write: Callable[[bytes], None]) -> None:
        write(camera.part(90))
        over.wait(10)

    camera.script = script
    stream = MjpegStream.open("cam", camera.url, None, stall_s=0.3)
    assert stream is not None
    stream.grab()
    with pytest.raises(SourceError, match="gives nothing any more"):
        stream.grab()
    over.set()
    stream.close()


def test_a_camera_that_hangs_up_is_opened_again(camera: Camera) -> None:
    camera.script = lambda write: [write(camera.part(90)) for _ in range(3)] and None
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
    camera: Camera, body: bytes, complaint: str
) -> None:
    camera.script = lambda write: write(body)
    with (
        contextlib.closing(open_source(camera.url)) as source,
        pytest.raises(SourceError, match=complaint),
    ):
        read(source)


def test_another_stream_at_an_http_address_is_left_to_ffmpeg(camera: Camera) -> None:
    camera.content_type = "text/html"
    camera.script = lambda write: write(b"<html>a camera's login page</html>")
    with pytest.raises(SourceError, match="cannot be opened: is it on"):
        open_source(camera.url)


def test_an_address_where_nobody_listens_says_why() -> None:
    with pytest.raises(SourceError, match=r"127\.0\.0\.1:9/x cannot be opened: .*refused"):
        open_source("http://127.0.0.1:9/x")
