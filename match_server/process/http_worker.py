"""gunicorn's worker with threads, for requests that have come: who is slow waits before the door.

gunicorn gives a thread to a connection as soon as it is there, and waits for the peer when it
closes one; as many silent or dripping clients as there are threads stop such a server. Here the
loop that accepts connections takes in what they send as well (TLS handshake, head, and a small
body), without ever waiting for one of them, and gives a thread to a request when it is complete.
What a client does not take of its answer is sent by the loop too. A large body is read by its
thread: those are of clients with a key (see `match_server.process.client_socket`).
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

from match_server.process.client_socket import SLOWEST_BYTES_PER_S, ClientSocket, SlowClients
from match_server.process.http_errors import head_too_large, refusal, too_late
from shared.errors import MusterError

_READ_BYTES = 64 * 1024
_HELD_BYTES = 64 * 1024
"""Of a request that is not complete: a longer head is refused, a larger body read by a thread."""
_UNSENT_BYTES = 256 * 1024 * 1024
"""Of all answers that their clients have not taken: beyond that the oldest is given up."""
_LEAVE_S = 2.0  # for a client to close its end, so that our last bytes are not cut off
_LEAVE_BYTES = 16 * 1024 * 1024  # that are thrown away meanwhile
_NO_ROOM_S = 0.01
_DRAIN_BYTES = 16 * 1024 * 1024
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*0*(\d*)[ \t]*\r\n", re.IGNORECASE)
_DIGITS = 9  # of a length; one that has more is above every limit
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LOOK_EVERY_S = 1.0
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Visitor(gthread.TConn):  # type: ignore[misc]  # gunicorn has no types
    """A connection, and what it has sent of a request.

    `raw` is the socket itself, for the loop; `sock` stands for it in threads.
    """

    def __init__(
        self,
        cfg: Any,
        client_socket: socket.socket,
        client: Any,
        server: Any,
        tls: ssl.SSLContext | None,
        patience_s: float,
        slow: SlowClients,
    ) -> None:
        super().__init__(cfg, client_socket, client, server)
        self.initialized = True  # the thread that gets it has nothing to set up
        self.received = bytearray()
        self.wanted = 0  # bytes of a request, once its head is complete
        self.searched = 0  # bytes in which its head does not end
        self.request = b""  # as it was given to a thread, and perhaps the beginning of the next
        self.woken = False  # see `match_server.api.parking`
        self.due = False  # its wait is over, but not all that it was told has been sent
        self.keep = False  # whether another request may follow
        self.shaken = tls is None
        self.thrown_away = 0  # bytes, while it leaves
        self.raw = client_socket
        if tls is not None:
            self.raw = tls.wrap_socket(
                client_socket, server_side=True, do_handshake_on_connect=False
            )
        self.sock = ClientSocket(self.raw, patience_s, slow)
        self.parser = gunicorn_http.get_parser(cfg, self.sock, client)

    def receive(self) -> bool:
        """Take what is there; whether that is all that is waited for. Raises OSError at its end."""
        if not self.shaken:
            self.raw.do_handshake()  # type: ignore[attr-defined]
            self.shaken = True
        while not self.is_complete():
            data = self.raw.recv(_READ_BYTES)
            if not data:
                raise ConnectionError("the client has gone")
            self.received += data
        return True

    def is_complete(self) -> bool:
        """Whether a request has come, or as much of it as is held."""
        if not self.wanted:
            self.wanted = self._length()
        return len(self.received) >= (self.wanted or _HELD_BYTES)

    @property
    def head_is_too_large(self) -> bool:
        return not self.wanted

    def next_request(self) -> bytes:
        """What has come, for a thread; what comes from now on belongs to another request."""
        data = bytes(self.received)
        self.received.clear()
        self.wanted = self.searched = 0
        return data

    def _length(self) -> int:
        """Bytes that are waited for before a thread is asked; 0 while the head is not complete.

        Who asks before sending a body that is held is told to send it.
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
        whole = _HELD_BYTES if large else min(head + int(length[1] or 0), _HELD_BYTES)
        expect = _EXPECT.search(received, 0, end + 2)
        if expect is None or len(received) >= whole:
            return whole
        if whole == _HELD_BYTES:
            return head  # its thread asks for it
        if received[: received.find(b"\r\n")].endswith(b"HTTP/1.1"):
            self.sock.sendall(_CONTINUE)
        del received[expect.start() : expect.end()]
        return whole - len(expect[0])


class PatientWorker(gthread.ThreadWorker):  # type: ignore[misc]
    """Threads answer; the main loop waits for everybody at once.

    `pending_conns` are those whose request has begun or is to begin, `keepalived_conns` those that
    may send another one, both by the time at which they are let go. The queue of connections is
    bounded by `worker_connections`: beyond that who has waited longest goes.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._leaving: deque[_Visitor] = deque()
        self._unsent: dict[_Visitor, int] = {}  # who has not taken the answer, and its bytes
        self._unsent_bytes = 0
        self._look_at_s = 0.0
        self._slow = SlowClients(max(1, self.cfg.threads // 2))
        self._tls: ssl.SSLContext | None = None
        self._serving = threading.local()  # the connection of this thread's request

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi: Callable[..., Any] = self._refusing_whole(self.wsgi)

    def handle_request(self, req: Any, conn: _Visitor) -> bool:
        self._serving.connection = conn
        try:
            return bool(super().handle_request(req, conn))
        finally:
            conn.sock.end_waiting()

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
        connection = self._serving.connection
        connection.sock.end_waiting()
        return _has_no_rest(connection)

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
            visitor = _Visitor(
                self.cfg,
                client_socket,
                client,
                listener.getsockname(),
                self._tls,
                self._patience_s,
                self._slow,
            )
        except OSError:  # it has gone already
            self.nr_conns -= 1
            client_socket.close()
            return
        self._wait_for(visitor)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Let no connection's fault end the loop, which serves all the others."""
        for key, _ in self.poller.select(timeout):
            try:
                key.data(key.fileobj)
            except OSError as error:
                self.log.error("a connection failed outside of a request", exc_info=error)

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
        """After an answer: the rest of it, the next request, or the end. Nobody is waited for."""
        try:
            conn.keep = not future.cancelled() and bool(future.result())
        except Exception:
            conn.keep = False
        self._finish_answer(conn)

    def _finish_answer(self, conn: _Visitor) -> None:
        try:
            if not conn.sock.flush():
                self._send_later(conn)
            elif conn.keep:
                self._keep(conn)
            else:
                self._leave(conn)
        except (OSError, ValueError):
            self._forget(conn)
            self._close(conn)

    def _send_later(self, conn: _Visitor) -> None:
        """Let the client take the rest of its answer when it can."""
        unsent = conn.sock.unsent
        conn.timeout = time.monotonic() + self._patience_s + unsent / SLOWEST_BYTES_PER_S
        self._unsent[conn] = unsent
        self._unsent_bytes += unsent
        self.poller.register(conn.raw, selectors.EVENT_WRITE, partial(self._on_taking, conn))
        while self._unsent_bytes > _UNSENT_BYTES and len(self._unsent) > 1:
            self._give_up(next(iter(self._unsent)))

    def _on_taking(self, conn: _Visitor, client: Any) -> None:
        if client.fileno() < 0 or conn not in self._unsent:
            return
        try:
            if not conn.sock.flush():
                return
        except (OSError, ValueError):
            self._give_up(conn)
            return
        self._unsent_bytes -= self._unsent.pop(conn)
        self._forget(conn)
        self._finish_answer(conn)

    def _give_up(self, conn: _Visitor) -> None:
        self._unsent_bytes -= self._unsent.pop(conn)
        self._forget(conn)
        self._close(conn)

    def _keep(self, conn: _Visitor) -> None:
        """Let the connection send its next request, which may be there already."""
        conn.received[:0] = conn.parser.unreader.take_buffered()
        if conn.received or (conn.shaken and _holds_more(conn.raw)):
            self._wait_for(conn)
            return
        conn.set_timeout()
        if not self.alive:
            linger_s = gthread.STOP_KEEPALIVE_LINGER
            conn.timeout = min(conn.timeout, time.monotonic() + linger_s)
        self.keepalived_conns.append(conn)
        again = partial(self.on_client_socket_readable, conn)
        self.poller.register(conn.raw, selectors.EVENT_READ, again)

    def murder_pending(self) -> None:
        """Let go whose time is over: of those who send, and of those who leave."""
        now_s = time.monotonic()
        soon_s = now_s if self.alive else now_s + self._patience_s - _LEAVE_S
        while self.pending_conns and self.pending_conns[0].timeout <= soon_s:
            conn = self.pending_conns[0]
            if conn.received:
                with contextlib.suppress(OSError, ValueError):
                    conn.raw.send(too_late())
            self._turn_away(conn)
        while self._leaving and self._leaving[0].timeout <= now_s:
            self._gone(self._leaving[0])
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + _LOOK_EVERY_S
            self._give_up_the_late(now_s)

    def _give_up_the_late(self, now_s: float) -> None:
        """Let go who takes the answer too slowly."""
        for conn in [one for one in self._unsent if one.timeout <= now_s]:
            self._give_up(conn)

    def _keepalive_after(self, conn: _Visitor, keepalive: bool) -> bool:
        """As gunicorn does, but not waiting for a body that the application left unread."""
        return keepalive and _has_no_rest(conn)

    @property
    def _patience_s(self) -> float:
        return float(self.app.client_timeout_s)

    def _on_pending(self, conn: _Visitor) -> Any:
        return partial(self.on_pending_socket_readable, conn)

    def _wait_for(self, conn: _Visitor) -> None:
        """Wait for a whole request, of which something may be there already."""
        conn.timeout = time.monotonic() + self._patience_s
        self.pending_conns.append(conn)
        self.poller.register(conn.raw, selectors.EVENT_READ, self._on_pending(conn))
        self.on_pending_socket_readable(conn, conn.raw)

    def _give_thread(self, conn: _Visitor) -> None:
        self.pending_conns.remove(conn)
        self.poller.unregister(conn.raw)
        if conn.head_is_too_large:
            conn.keep = False
            with contextlib.suppress(OSError, ValueError):  # it has gone; the next line sees it too
                conn.sock.sendall(head_too_large())
            self._finish_answer(conn)
            return
        conn.request = conn.next_request()
        conn.parser.unreader.unread(conn.request)
        self.enqueue_req(conn)

    def _make_room(self) -> None:
        for waiting in (self.pending_conns, self.keepalived_conns):
            if waiting:
                conn = waiting.popleft()
                self._forget(conn)
                self._close(conn)
                return
        if self._unsent:
            self._give_up(next(iter(self._unsent)))
            return
        time.sleep(_NO_ROOM_S)  # all are being answered: the poller would ask again at once

    def _turn_away(self, conn: _Visitor) -> None:
        self.pending_conns.remove(conn)
        self._forget(conn)
        self._close(conn)

    def _leave(self, conn: _Visitor) -> None:
        """Say that nothing more comes, and let the client close: a reset could cut the answer."""
        conn.raw.shutdown(socket.SHUT_WR)
        conn.timeout = time.monotonic() + _LEAVE_S
        self._leaving.append(conn)
        self.poller.register(conn.raw, selectors.EVENT_READ, partial(self._on_leaving, conn))

    def _on_leaving(self, conn: _Visitor, client: Any) -> None:
        if client.fileno() < 0:
            return
        try:
            data = conn.raw.recv(_READ_BYTES)
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
            self.poller.unregister(conn.raw)

    def _close(self, conn: _Visitor) -> None:
        self.nr_conns -= 1
        conn.close()


def _has_no_rest(conn: _Visitor) -> bool:
    """Whether all of a request's body has come; what was not read of it is thrown away."""
    try:
        return bool(conn.parser.finish_body(max_bytes=_DRAIN_BYTES))
    except (OSError, MusterError, http_errors.ParseException, http_errors.NoMoreData):
        return False


def _holds_more(client_socket: Any) -> bool:
    """Whether TLS has decrypted more than was read: the poller does not see that."""
    return isinstance(client_socket, ssl.SSLSocket) and client_socket.pending() > 0
