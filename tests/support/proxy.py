"""A network between device and server, on loopback, that fails as networks do."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Final, Literal

_CHUNK: Final = 65_536
_DRIP_S: Final = 0.1

Way = Callable[[bytes, socket.socket, socket.socket], None]
Manner = Literal["whole", "silent", "half", "drip"]
"""What becomes of the server's answers: all of it, nothing, one half and then nothing, or byte by
byte, ten a second."""


class Network:
    """Forwards TCP connections from a port of its own to another, while it is whole.

    `canned`, where it is set, is the response to every HTTP request; `request_times_s` are the
    moments at which requests came, on the monotonic clock. `upward` limits the bytes a second that
    go to the server.
    """

    def __init__(self, target: int) -> None:
        self.manner: Manner = "whole"
        self.canned: bytes | None = None
        self.upward: int | None = None
        self.request_times_s: list[float] = []
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._whole = True
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Closes every connection at once, and refuses new ones."""
        with self._lock:
            self._whole = False
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.manner, self.canned, self.upward = "whole", None, None
        with self._lock:
            self._whole = True

    def refuse(self, status: int, **headers: str) -> None:
        """Responds to every request with `status`, as a failing server or gateway does."""
        body = b'{"code": "x", "message": "because"}'
        lines = [f"HTTP/1.1 {status} Trouble", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.canned = "\r\n".join([*lines, "", ""]).encode() + body

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            with self._lock:
                whole = self._whole
            if not whole:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # nobody is there
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for source, sink, way in ((near, far, self._up), (far, near, self._down)):
                threading.Thread(
                    target=self._forward, args=(source, sink, way), daemon=True
                ).start()

    def _forward(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK if self.upward is None else 4096):
                way(data, source, sink)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._open.discard(one)
            one.close()

    def _up(self, data: bytes, near: socket.socket, far: socket.socket) -> None:
        begins = data.startswith((b"POST ", b"GET ", b"PUT "))
        if begins:
            self.request_times_s.append(time.monotonic())
        canned = self.canned
        if canned is None or not begins:  # a request of which a part was sent on goes on whole
            if self.upward is not None:
                time.sleep(len(data) / self.upward)
            far.sendall(data)
            return
        head, _, begun = data.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        rest = length - len(begun)
        while rest > 0 and (more := near.recv(min(rest, _CHUNK))):
            rest -= len(more)
        near.sendall(canned)

    def _down(self, data: bytes, far: socket.socket, near: socket.socket) -> None:
        if self.manner == "whole":
            near.sendall(data)
        elif self.manner == "half":
            near.sendall(data[: len(data) // 2])
        elif self.manner == "drip":
            for place in range(len(data)):
                near.sendall(data[place : place + 1])
                time.sleep(_DRIP_S)
