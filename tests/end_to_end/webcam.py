"""A network camera that never ends: JPEGs over HTTP, some of which may be turned away."""

import contextlib
import itertools
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np


class Webcam:
    """Pictures (JPEG) over and over; moving noise by default. Only `viewers` visitors get any."""

    def __init__(
        self,
        pictures: Sequence[bytes] | None = None,
        *,
        fps: float = 10,
        viewers: int = 1_000_000,
    ) -> None:
        pictures = pictures or _moving_noise()
        self._left = viewers
        self._lock = threading.Lock()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not camera._admit():
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with contextlib.suppress(OSError):
                    due_s = time.monotonic()
                    for data in itertools.cycle(pictures):
                        head = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(b"--frame\r\n" + head.encode() + data + b"\r\n")
                        due_s = max(due_s + 1 / fps, time.monotonic() - 1)
                        time.sleep(max(0.0, due_s - time.monotonic()))

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

    def _admit(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0


def _moving_noise() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    return [
        cv2.imencode(".jpg", np.roll(pixels, 8 * step, axis=1))[1].tobytes() for step in range(16)
    ]
