"""A connection of a worker: what the client has sent of a request, and how it is read."""

import re
import socket
import ssl
import time
from typing import Any

from gunicorn.http import errors as http_errors  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from match_server.process.client_socket import SLOWEST_BYTES_PER_S, ClientSocket, SlowClients
from match_server.process.request_head import HeadParser
from shared.errors import MusterError

BUFFER_BYTES = 64 * 1024
"""Of an incomplete request: a longer head is refused, a larger body is read by a thread."""
_READ_BYTES = 64 * 1024
_DRAIN_BYTES = 16 * 1024 * 1024
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*0*(\d*)[ \t]*\r\n", re.IGNORECASE)
_DIGITS = 9  # of a length; a longer number is above every limit
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(gthread.TConn):  # type: ignore[misc]  # gunicorn has no types
    """A client's connection and the part of a request that it has sent.

    The worker's loop uses `raw`, the socket itself; threads use `sock` in its place.
    """

    def __init__(
        self,
        cfg: Any,
        client_socket: socket.socket,
        client: Any,
        server: Any,
        tls: ssl.SSLContext | None,
        timeout_s: float,
        slow: SlowClients,
    ) -> None:
        super().__init__(cfg, client_socket, client, server)
        self.initialized = True  # a thread has nothing to set up
        self.timeout_s = timeout_s
        self.received = bytearray()
        self.request_bytes = 0  # length of the request, 0 until its head is complete
        self.searched = 0  # bytes without the end of the head
        self.request = b""  # as a thread got it, perhaps with the beginning of the next
        self.woken = False  # see `match_server.api.parking`
        self.due = False  # its wait is over, but earlier bytes are still unsent
        self.keep = False  # whether another request may follow
        self.is_polled = False  # see `match_server.process.request_threads`
        self.handshake_done = tls is None
        self.discarded = 0  # bytes that came after the last response
        self.raw = client_socket
        if tls is not None:
            self.raw = tls.wrap_socket(
                client_socket, server_side=True, do_handshake_on_connect=False
            )
        self.sock = ClientSocket(self.raw, timeout_s, slow)
        self.parser = HeadParser(cfg, self.sock, client)

    def receive(self) -> None:
        """Reads until a request is complete, or as much of it as is buffered.

        Raises BlockingIOError, SSLWantReadError or SSLWantWriteError where more has to come, other
        OSErrors where the client has closed the connection.
        """
        if not self.handshake_done:
            self.raw.do_handshake()  # type: ignore[attr-defined]
            self.handshake_done = True
        while not self.is_complete():
            data = self.raw.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the client has closed the connection")
            self.received += data

    def read_now(self) -> bytes | None:
        """Returns the next bytes: None if there are none yet, b"" at the end."""
        try:
            return self.raw.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except (OSError, ValueError):
            return b""

    def is_complete(self) -> bool:
        """Whether a request has come, or as much of it as is buffered."""
        if not self.request_bytes:
            self.request_bytes = self._length()
        return len(self.received) >= (self.request_bytes or BUFFER_BYTES)

    @property
    def head_is_too_large(self) -> bool:
        return not self.request_bytes

    def take_request(self) -> bytes:
        """Returns the received bytes, for a thread; later bytes belong to another request."""
        data = bytes(self.received)
        self.received.clear()
        self.request_bytes = self.searched = 0
        return data

    def begin_request(self) -> None:
        """Lets the parser read the request that has come."""
        self.request = self.take_request()
        self.parser.unreader.unread(self.request)

    def reads_ahead(self) -> bool:
        """Whether bytes of the next request were read already: the poller does not notice them."""
        self.received[:0] = self.parser.unreader.take_buffered()
        return bool(self.received) or self.has_more()

    def allow_time_to_send(self) -> None:
        """Sets the time until which the client must have taken the unsent bytes."""
        self.timeout = time.monotonic() + self.timeout_s + self.sock.unsent / SLOWEST_BYTES_PER_S

    def drain_body(self) -> bool:
        """Discards the unread rest of a request's body. Returns whether all of it has come."""
        try:
            return bool(self.parser.finish_body(max_bytes=_DRAIN_BYTES))
        except (OSError, MusterError, http_errors.ParseException, http_errors.NoMoreData):
            return False

    def has_more(self) -> bool:
        """Whether TLS has decrypted bytes that were not read: the poller does not notice them."""
        return (
            self.handshake_done and isinstance(self.raw, ssl.SSLSocket) and self.raw.pending() > 0
        )

    def _length(self) -> int:
        """Returns the bytes to wait for before a thread gets the request; 0: not known yet.

        A client that asks before it sends a body that is buffered gets `100 Continue`.
        """
        received = self.received
        end = received.find(_END_OF_HEAD, self.searched)
        self.searched = max(0, len(received) - len(_END_OF_HEAD) + 1)
        if end < 0:
            return 0
        head, length = end + len(_END_OF_HEAD), _LENGTH.search(received, 0, end + 2)
        if length is None:
            return head
        large = len(length[1]) > _DIGITS
        whole = BUFFER_BYTES if large else min(head + int(length[1] or 0), BUFFER_BYTES)
        expect = _EXPECT.search(received, 0, end + 2)
        if expect is None or len(received) >= whole:
            return whole
        if whole == BUFFER_BYTES:
            return head  # its thread sends `100 Continue`
        if received[: received.find(b"\r\n")].endswith(b"HTTP/1.1"):
            self.sock.sendall(_CONTINUE)
        del received[expect.start() : expect.end()]
        return whole - len(expect[0])
