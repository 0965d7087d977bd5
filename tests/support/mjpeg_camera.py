"""A camera that sends JPEG pictures over HTTP, with the faults of real cameras."""

import contextlib
import hashlib
import re
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

Write = Callable[[bytes], object]


def jpeg(level: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A grey picture."""
    done, data = cv2.imencode(".jpg", np.full((size[1], size[0], 3), level, np.uint8))
    if not done:
        raise RuntimeError("this OpenCV cannot write JPEG")
    return data.tobytes()


def lying_jpeg(width: int, height: int) -> bytes:
    """A small picture whose header has another size."""
    data = bytearray(jpeg(90))
    frame_header = data.index(b"\xff\xc0")
    data[frame_header + 5 : frame_header + 9] = height.to_bytes(2) + width.to_bytes(2)
    return bytes(data)


class MjpegCamera:
    """Sends the output of `script` to each new viewer, after a login by one of `scheme`.

    `scheme` may name several logins, in the order in which they are offered: "Digest SHA-256",
    "Digest MD5", "Basic"; in one header line if `joined`. Viewers beyond the first `places` are
    refused. With `certificate` it uses TLS.
    """

    def __init__(
        self,
        script: Callable[[Write], object] = lambda write: None,
        *,
        places: int = 1_000_000,
        port: int = 0,
        certificate: Callable[[ssl.SSLContext], object] | None = None,
    ) -> None:
        self.script = script
        self.boundary = "frame"
        self.content_type = "multipart/x-mixed-replace; boundary={}"
        self.login: tuple[str, str] | None = None
        self.scheme: str | tuple[str, ...] = "Basic"
        self.joined = False
        self.status = 200
        self.viewers = 0
        self.over = threading.Event()  # the connection is closed
        self._places = places
        self._lock = threading.Lock()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not camera._may_see(self.headers.get("Authorization", "")):
                    self.send_response(401)
                    offers = [_offer(scheme) for scheme in camera._schemes]
                    for offer in [", ".join(offers)] if camera.joined else offers:
                        self.send_header("WWW-Authenticate", offer)
                    self.end_headers()
                    return
                if not camera._has_a_place():
                    self.send_error(503)
                    return
                self.send_response(camera.status)
                kind = camera.content_type.format(camera.boundary)
                self.send_header("Content-Type", kind)
                self.end_headers()
                with contextlib.suppress(OSError):
                    camera.script(self.wfile.write)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True
            block_on_close = False

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate(context)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        secure = "" if certificate is None else "s"
        self.url = f"http{secure}://127.0.0.1:{self.port}/video"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def part(self, data: bytes, *, with_length: bool = True, dashes: str = "--") -> bytes:
        """One picture as a part of the stream."""
        length = f"Content-Length: {len(data)}\r\n" if with_length else ""
        head = f"{dashes}{self.boundary}\r\nContent-Type: image/jpeg\r\n{length}\r\n"
        return head.encode() + data + b"\r\n"

    def _has_a_place(self) -> bool:
        with self._lock:
            self.viewers += 1
            return self.viewers <= self._places

    @property
    def _schemes(self) -> tuple[str, ...]:
        return (self.scheme,) if isinstance(self.scheme, str) else self.scheme

    def _may_see(self, authorization: str) -> bool:
        if self.login is None:
            return True
        name, password = self.login
        if authorization.startswith("Basic "):
            expected = "Basic " + b64encode(f"{name}:{password}".encode()).decode()
            return "Basic" in self._schemes and authorization == expected
        fields = dict(re.findall(r'(\w+)="?([^",]+)"?', authorization))
        algorithm = fields.get("algorithm", "MD5")
        if not {f"Digest {algorithm}", "Digest"} & set(self._schemes):
            return False
        kind = hashlib.sha256 if algorithm == "SHA-256" else hashlib.md5
        digest = lambda text: kind(text.encode()).hexdigest()  # noqa: E731
        expected = digest(
            f"{digest(f'{name}:cam:{password}')}:abc:{fields.get('nc')}:{fields.get('cnonce')}:auth:"
            f"{digest('GET:/video')}"
        )
        return fields.get("response") == expected


def _offer(scheme: str) -> str:
    kind, _, algorithm = scheme.partition(" ")
    parameter = f", algorithm={algorithm}" if algorithm else ""
    extra = f', nonce="abc", qop="auth"{parameter}' if kind == "Digest" else ""
    return f'{kind} realm="cam"{extra}'
