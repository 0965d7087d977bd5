"""gunicorn's worker with threads, for requests that have come: who is slow waits before the door.

gunicorn gives a thread to a connection as soon as it is there, and waits for the peer when it
closes one; as many silent or dripping clients as there are threads stop such a server. Here the
loop that accepts connections takes in what they send as well (TLS handshake, head, and a small
body), without ever waiting for one of them, and gives a thread to a request when it is complete.
A large body is read by its thread: those are of clients with a key (see `match_server.app`).
"""

import contextlib
import errno
import re
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn import http as gunicorn_http  # type: ignore[import-untyped]
from gunicorn import sock as gunicorn_sock
from gunicorn.http import errors as http_errors  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from match_server.refusals import refusal, too_late

_READ_BYTES = 64 * 1024
_HELD_BYTES = 64 * 1024
"""Of a request that is not complete: a head or body that is larger gets its thread at once."""
_LEAVE_S = 2.0  # for a client to close its end, so that our last bytes are not cut off
_LEAVE_BYTES = 16 * 1024 * 1024  # that are thrown away meanwhile
_NO_ROOM_S = 0.01
_DRAIN_S = 0.25  # for the rest of a large body that nobody wanted to read
_DRAIN_BYTES = 16 * 1024 * 1024
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:", re.IGNORECASE)  # the body comes when it is asked for
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Visitor(gthread.TConn):  # type: ignore[misc]  # gunicorn has no types
    """A connection, and what it has sent of a request."""

    def __init__(
        self,
        cfg: Any,
        client_socket: socket.socket,
        client: Any,
        server: Any,
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(cfg, client_socket, client, server)
        self.initialized = True  # the thread that gets it has nothing to set up
        self.received = bytearray()
        self.request = b""  # as it was given to a thread, and perhaps the beginning of the next
        self.woken = False  # see `match_server.parking`
        self.shaken = tls is None
        self.thrown_away = 0  # bytes, while it leaves
        if tls is not None:
            self.sock = tls.wrap_socket(
                client_socket, server_side=True, do_handshake_on_connect=False
            )
        self.parser = gunicorn_http.get_parser(cfg, self.sock, client)

    def receive(self) -> bool:
        """Take what is there; whether it is time for a thread. Raises OSError when it is over."""
        if not self.shaken:
            self.sock.do_handshake()
            self.shaken = True
        while len(self.received) < _HELD_BYTES:
            data = self.sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the client has gone")
            self.received += data
            if _is_complete(self.received):
                return True
        return True


def _is_complete(received: bytearray) -> bool:
    head = received.find(_END_OF_HEAD)
    if head < 0:
        return False
    length = _LENGTH.search(received, 0, head + 2)
    if length is None or _EXPECT.search(received, 0, head + 2):
        return True
    whole = head + len(_END_OF_HEAD) + int(length[1])
    return len(received) >= min(whole, _HELD_BYTES)


class PatientWorker(gthread.ThreadWorker):  # type: ignore[misc]
    """Threads answer; the main loop waits for everybody at once.

    `pending_conns` are those whose request has begun or is to begin, `keepalived_conns` those that
    may send another one, both by the time at which they are let go. The queue of connections is
    bounded by `worker_connections`: beyond that who has waited longest goes.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._leaving: deque[_Visitor] = deque()
        self._tls: ssl.SSLContext | None = None
        self._serving = threading.local()  # the connection of this thread's request

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi: Callable[..., Any] = self._refusing_whole(self.wsgi)

    def handle_request(self, req: Any, conn: _Visitor) -> bool:
        self._serving.parser = conn.parser
        return bool(super().handle_request(req, conn))

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Refuse what cannot be read as HTTP; gunicorn would answer with a page."""
        status, answer = refusal(exc)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log.error("a request failed outside the application", exc_info=exc)
        else:
            self.log.info("refused a request with %d: %s", status, exc)
        with contextlib.suppress(OSError, ValueError):
            client.setblocking(False)
            client.send(answer)

    def _refusing_whole(self, application: Callable[..., Iterable[bytes]]) -> Callable[..., Any]:
        """Read the body of a refused request to its end, or say that the connection closes.

        A client that is told `keep-alive` sends its next request on this connection, where the
        rest of the body would stand before it.
        """

        def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            def start(status: str, headers: Any, exc_info: Any = None) -> Any:
                if status[:1] in "45" and not self._drained():
                    start_response.__self__.force_close()
                return start_response(status, headers, exc_info)

            return application(environ, start)

        return call

    def _drained(self) -> bool:
        try:
            deadline = time.monotonic() + _DRAIN_S
            return bool(self._serving.parser.finish_body(deadline, max_bytes=_DRAIN_BYTES))
        except (OSError, http_errors.ParseException, http_errors.NoMoreData):
            return False

    def init_process(self) -> None:
        if self.cfg.is_ssl:  # once, not for each connection as gunicorn does
            self._tls = gunicorn_sock.ssl_context(self.cfg)
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        try:
            client_socket, client = listener.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._make_room()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections:
            self._make_room()
        try:
            visitor = _Visitor(self.cfg, client_socket, client, listener.getsockname(), self._tls)
        except OSError:  # it has gone already
            self.nr_conns -= 1
            client_socket.close()
            return
        self._wait_for(visitor)

    def on_client_socket_readable(self, conn: _Visitor, client: Any) -> None:
        """A kept connection sends its next request."""
        if client.fileno() < 0:  # closed since the poller saw it
            return
        self.keepalived_conns.remove(conn)
        self.poller.unregister(client)
        self._wait_for(conn)

    def on_pending_socket_readable(self, conn: _Visitor, client: Any) -> None:
        if client.fileno() < 0:
            return
        try:
            complete = conn.receive()
        except (BlockingIOError, ssl.SSLWantReadError):
            self.poller.modify(client, selectors.EVENT_READ, self._on_pending(conn))
            return
        except ssl.SSLWantWriteError:
            self.poller.modify(client, selectors.EVENT_WRITE, self._on_pending(conn))
            return
        except (OSError, ValueError):  # it has gone, or speaks no TLS that we do
            self._turn_away(conn)
            return
        if complete:
            self._give_thread(conn)

    def finish_request(self, conn: _Visitor, future: "Future[Any]") -> None:
        """After an answer: the next request, or the end, which is not waited for either."""
        try:
            keep = not future.cancelled() and bool(future.result())
        except Exception:
            keep = False
        try:
            conn.sock.setblocking(False)
            if not keep:
                self._leave(conn)
                return
            conn.received += conn.parser.unreader.take_buffered()
            if conn.received or (conn.shaken and _holds_more(conn.sock)):
                self._wait_for(conn)
                return
            conn.set_timeout()
            if not self.alive:
                linger_s = gthread.STOP_KEEPALIVE_LINGER
                conn.timeout = min(conn.timeout, time.monotonic() + linger_s)
            self.keepalived_conns.append(conn)
            again = partial(self.on_client_socket_readable, conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, again)
        except (OSError, ValueError):
            self._close(conn)

    def murder_pending(self) -> None:
        """Let go whose time is over: of those who send, and of those who leave."""
        now_s = time.monotonic()
        soon_s = now_s if self.alive else now_s + self._patience_s - _LEAVE_S
        while self.pending_conns and self.pending_conns[0].timeout <= soon_s:
            conn = self.pending_conns[0]
            if conn.received:
                with contextlib.suppress(OSError, ValueError):
                    conn.sock.send(too_late())
            self._turn_away(conn)
        while self._leaving and self._leaving[0].timeout <= now_s:
            self._gone(self._leaving[0])

    def _keepalive_after(self, conn: _Visitor, keepalive: bool) -> bool:
        """As gunicorn does, but hardly waiting for a body that the application left unread."""
        if not keepalive:
            return False
        deadline = time.monotonic() + _DRAIN_S
        return bool(conn.parser.finish_body(deadline, max_bytes=_DRAIN_BYTES))

    @property
    def _patience_s(self) -> float:
        return float(self.app.client_timeout_s)

    def _on_pending(self, conn: _Visitor) -> Any:
        return partial(self.on_pending_socket_readable, conn)

    def _wait_for(self, conn: _Visitor) -> None:
        """Wait for a whole request, of which something may be there already."""
        conn.timeout = time.monotonic() + self._patience_s
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, self._on_pending(conn))
        if _is_complete(conn.received):
            self._give_thread(conn)
        else:
            self.on_pending_socket_readable(conn, conn.sock)

    def _give_thread(self, conn: _Visitor) -> None:
        self.pending_conns.remove(conn)
        self.poller.unregister(conn.sock)
        conn.request = bytes(conn.received)
        conn.parser.unreader.unread(conn.request)
        conn.received.clear()
        self.enqueue_req(conn)

    def _make_room(self) -> None:
        for waiting in (self.pending_conns, self.keepalived_conns):
            if waiting:
                conn = waiting.popleft()
                self._forget(conn)
                self._close(conn)
                return
        time.sleep(_NO_ROOM_S)  # all are being answered: the poller would ask again at once

    def _turn_away(self, conn: _Visitor) -> None:
        self.pending_conns.remove(conn)
        self._forget(conn)
        self._close(conn)

    def _leave(self, conn: _Visitor) -> None:
        """Say that nothing more comes, and let the client close: a reset could cut the answer."""
        conn.sock.shutdown(socket.SHUT_WR)
        conn.timeout = time.monotonic() + _LEAVE_S
        self._leaving.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_leaving, conn))

    def _on_leaving(self, conn: _Visitor, client: Any) -> None:
        if client.fileno() < 0:
            return
        try:
            data = conn.sock.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except (OSError, ValueError):
            data = b""
        conn.thrown_away += len(data)
        if not data or conn.thrown_away > _LEAVE_BYTES:
            self._gone(conn)

    def _gone(self, conn: _Visitor) -> None:
        self._leaving.remove(conn)
        self._forget(conn)
        self._close(conn)

    def _forget(self, conn: _Visitor) -> None:
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)

    def _close(self, conn: _Visitor) -> None:
        self.nr_conns -= 1
        conn.close()


def _holds_more(client_socket: Any) -> bool:
    """Whether TLS has decrypted more than was read: the poller does not see that."""
    return isinstance(client_socket, ssl.SSLSocket) and client_socket.pending() > 0
