"""gunicorn's worker with threads, which gives a thread to complete requests only.

gunicorn gives a thread to a connection as soon as it is open, and waits for the client when it
closes one; as many silent or slow clients as there are threads stop such a server. Here no thread
waits for a client to send a request. One idle thread at a time waits for all silent connections,
and reads what a client has sent (see `match_server.process.request_threads`). Most requests come
whole, and this thread handles them. The main loop waits for the rest of all others (TLS
handshake, head, and a small body), and gives a thread to each that is complete. The loop also sends
the part of a response that a client has not taken yet. A large body is read by its thread: only
clients with a key may send one (see `match_server.process.client_socket`).
"""

import contextlib
import errno
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn import sock as gunicorn_sock  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from match_server.process.client_socket import SlowClients
from match_server.process.connection import Connection
from match_server.process.http_errors import head_too_large, refusal, too_late
from match_server.process.request_threads import RequestThreads

_UNSENT_BYTES = 256 * 1024 * 1024
"""Of all responses that clients have not taken: beyond that the oldest is given up."""
_LEAVE_S = 2.0  # for a client to close its end, so that the last bytes are not cut off
_LEAVE_BYTES = 16 * 1024 * 1024  # that are discarded meanwhile
_NO_ROOM_S = 0.01
_STEP_BACK_S = 0.002  # for a worker with fewer connections to accept the next one
_LOOK_EVERY_S = 1.0
_NOTIFY_EVERY_S = 0.5
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class HttpWorker(gthread.ThreadWorker):  # type: ignore[misc]
    """Threads handle requests; the main loop waits for all clients with something unfinished.

    `pending_conns` are connections whose request is incomplete, in the order of their timeouts;
    `tpool` keeps those that have sent nothing yet of their next request. There are at most
    `worker_connections`: beyond that the one that has waited longest is closed.
    """

    tpool: RequestThreads

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._leaving: deque[Connection] = deque()
        self._unsent: dict[Connection, int] = {}  # whose response is not all sent, and its bytes
        self._unsent_bytes = 0
        self._look_at_s = 0.0
        self._notify_at_s = 0.0
        self._slow = SlowClients(max(1, self.cfg.threads // 2))
        self._tls: ssl.SSLContext | None = None
        self._serving = threading.local()  # the connection of this thread's request

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi: Callable[..., Any] = self._draining_refused(self.wsgi)

    def handle_request(self, req: Any, conn: Connection) -> bool:
        self._serving.connection = conn
        try:
            return bool(super().handle_request(req, conn))
        finally:
            conn.sock.end_request()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Refuses what cannot be read as HTTP; gunicorn would send an HTML page."""
        status, response = refusal(exc)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log.error("Request failed outside the application", exc_info=exc)
        else:
            self.log.info("Refused a request with %d: %s", status, exc)
        with contextlib.suppress(OSError, ValueError):
            client.setblocking(False)
            client.send(response)

    def _draining_refused(self, application: Callable[..., Iterable[bytes]]) -> Callable[..., Any]:
        """Reads the body of a refused request to its end, or announces that the connection closes.

        A client that gets `keep-alive` sends its next request on this connection, where the rest
        of the body would come first.
        """

        def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            def start(status: str, headers: Any, exc_info: Any = None) -> Any:
                if status[:1] in "45" and not self._drained():
                    start_response.__self__.force_close()
                return start_response(status, headers, exc_info)

            return application(environ, start)

        return call

    def _drained(self) -> bool:
        connection: Connection = self._serving.connection
        connection.sock.end_waiting()
        return connection.drain_body()

    def init_process(self) -> None:
        if self.cfg.is_ssl:  # once, not for each connection as gunicorn does
            self._tls = gunicorn_sock.ssl_context(self.cfg)
        super().init_process()

    def get_thread_pool(self) -> RequestThreads:
        return RequestThreads(self.cfg.threads, self._read_next)

    def run(self) -> None:
        self._count(0)
        self.tpool.start()
        try:
            super().run()
        finally:
            self.tpool.shutdown()

    def enqueue_req(self, conn: Connection) -> None:
        self.tpool.do(partial(self._serve, conn, self.handle))

    def accept(self, listener: socket.socket) -> None:
        if self.nr_conns > self.app.connection_counts.least():
            time.sleep(_STEP_BACK_S)
        try:
            client_socket, client = listener.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._make_room()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        self._count(1)
        if self.nr_conns >= self.worker_connections:
            self._make_room()
        try:
            conn = Connection(
                self.cfg,
                client_socket,
                client,
                listener.getsockname(),
                self._tls,
                self._client_timeout_s,
                self._slow,
            )
        except OSError:  # the client has closed it already
            self._count(-1)
            client_socket.close()
            return
        conn.timeout = time.monotonic() + conn.timeout_s
        self.tpool.keep(conn)

    def notify(self) -> None:
        """Tells the master that this worker lives, at most once in half a second.

        gunicorn does so in each round of the loop, twice a request, by a call of the system.
        """
        now_s = time.monotonic()
        if now_s >= self._notify_at_s:
            self._notify_at_s = now_s + _NOTIFY_EVERY_S
            super().notify()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Handles events. An error of one connection does not end the loop for all others."""
        if not self.alive and (kept := self.tpool.kept()):
            timeout = min(timeout, max(0.0, kept[0].timeout - time.monotonic()))
        for key, _ in self.poller.select(timeout):
            try:
                key.data(key.fileobj)
            except OSError as error:
                self.log.error("Connection failed outside of a request", exc_info=error)

    def on_pending_socket_readable(self, conn: Connection, client: Any) -> None:
        if client.fileno() < 0:
            return
        try:
            conn.receive()
        except (BlockingIOError, ssl.SSLWantReadError):
            self.poller.modify(client, selectors.EVENT_READ, self._on_pending(conn))
            return
        except ssl.SSLWantWriteError:
            self.poller.modify(client, selectors.EVENT_WRITE, self._on_pending(conn))
            return
        except (OSError, ValueError):  # closed, or no TLS that this server speaks
            self._close_pending(conn)
            return
        self._give_thread(conn)

    def _read_next(self, conn: Connection) -> None:
        """Reads the next request of a connection and handles it, in a thread."""
        try:
            conn.receive()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self.method_queue.defer(self._wait_for, conn)
        except (OSError, ValueError):
            self.method_queue.defer(self._close, conn)
        else:
            if conn.head_is_too_large:
                self.method_queue.defer(self._wait_for, conn)
            else:
                conn.begin_request()
                self._serve(conn, self.handle)

    def _serve(self, conn: Connection, handle: Callable[[Connection], Any]) -> None:
        """Handles a request in a thread, and keeps the connection if all of the response is sent.

        Leaves what else there is to do to the loop.
        """
        try:
            conn.keep = bool(handle(conn))
        except (Exception, SystemExit):
            self.log.exception("Request failed outside the application")
            conn.keep = False
        try:
            is_done = conn.keep and conn.sock.flush() and not conn.reads_ahead()
        except (OSError, ValueError):
            is_done = False
        if is_done:
            self._keep(conn)
        else:
            self.method_queue.defer(self._finish_response, conn)

    def _finish_response(self, conn: Connection) -> None:
        """After a response: sends its rest, keeps the connection or closes it, without waiting."""
        try:
            if not conn.sock.flush():
                self._send_later(conn)
            elif conn.keep and conn.reads_ahead():
                self._wait_for(conn)
            elif conn.keep:
                self._keep(conn)
            else:
                self._leave(conn)
        except (OSError, ValueError):
            self._forget(conn)
            self._close(conn)

    def _send_later(self, conn: Connection) -> None:
        """Sends the rest of the response when the client can take it."""
        conn.allow_time_to_send()
        self._unsent[conn] = conn.sock.unsent
        self._unsent_bytes += conn.sock.unsent
        self.poller.register(conn.raw, selectors.EVENT_WRITE, partial(self._on_writable, conn))
        while self._unsent_bytes > _UNSENT_BYTES and len(self._unsent) > 1:
            self._give_up(next(iter(self._unsent)))

    def _on_writable(self, conn: Connection, client: Any) -> None:
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
        self._finish_response(conn)

    def _give_up(self, conn: Connection) -> None:
        self._unsent_bytes -= self._unsent.pop(conn)
        self._forget(conn)
        self._close(conn)

    def _keep(self, conn: Connection) -> None:
        """Waits for the next request of the connection."""
        conn.set_timeout()
        self.tpool.keep(conn)
        if not self.alive:  # looked at last: `_cap_keepalive` may have missed this connection
            conn.timeout = min(conn.timeout, time.monotonic() + gthread.STOP_KEEPALIVE_LINGER)

    def _cap_keepalive(self, deadline: float) -> None:
        for conn in self.tpool.kept():
            conn.timeout = min(conn.timeout, deadline)

    def murder_keepalived(self, force: bool = False) -> None:
        """Closes silent connections whose timeout is over, unless their next request has come."""
        now_s = time.monotonic()
        if self.alive and now_s < self._look_at_s:
            return
        for conn in self.tpool.kept():
            if (force or conn.timeout <= now_s) and self.tpool.take(conn):
                self._wait_for(conn)  # where all threads are busy, none has read the request
                if conn in self.pending_conns and not conn.received:
                    self._close_pending(conn)

    def murder_pending(self) -> None:
        """Closes connections whose timeout is over."""
        now_s = time.monotonic()
        soon_s = now_s if self.alive else now_s + self._client_timeout_s - _LEAVE_S
        while self.pending_conns and self.pending_conns[0].timeout <= soon_s:
            conn = self.pending_conns[0]
            if conn.received:
                with contextlib.suppress(OSError, ValueError):
                    conn.raw.send(too_late())
            self._close_pending(conn)
        while self._leaving and self._leaving[0].timeout <= now_s:
            self._close_leaving(self._leaving[0])
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + _LOOK_EVERY_S
            self._give_up_late(now_s)

    def _give_up_late(self, now_s: float) -> None:
        """Closes connections that take their response too slowly."""
        for conn in [conn for conn in self._unsent if conn.timeout <= now_s]:
            self._give_up(conn)

    def _keepalive_after(self, conn: Connection, keepalive: bool) -> bool:
        """Does as gunicorn, but without waiting for a body that the application has not read."""
        return keepalive and conn.drain_body()

    @property
    def _client_timeout_s(self) -> float:
        return float(self.app.client_timeout_s)

    def _on_pending(self, conn: Connection) -> Any:
        return partial(self.on_pending_socket_readable, conn)

    def _wait_for(self, conn: Connection) -> None:
        """Waits for a complete request; part of it may be there already."""
        conn.timeout = time.monotonic() + conn.timeout_s
        self.pending_conns.append(conn)
        self.poller.register(conn.raw, selectors.EVENT_READ, self._on_pending(conn))
        self.on_pending_socket_readable(conn, conn.raw)

    def _give_thread(self, conn: Connection) -> None:
        self.pending_conns.remove(conn)
        self.poller.unregister(conn.raw)
        if conn.head_is_too_large:
            conn.keep = False
            with contextlib.suppress(OSError, ValueError):  # closed; the next line notices it too
                conn.sock.sendall(head_too_large())
            self._finish_response(conn)
            return
        conn.begin_request()
        self.enqueue_req(conn)

    def _make_room(self) -> None:
        if self.pending_conns:
            self._close_pending(self.pending_conns[0])
            return
        for conn in self.tpool.kept():
            if self.tpool.take(conn):
                self._close(conn)
                return
        if self._unsent:
            self._give_up(next(iter(self._unsent)))
            return
        time.sleep(_NO_ROOM_S)  # all have a thread: the poller would call again at once

    def _close_pending(self, conn: Connection) -> None:
        self.pending_conns.remove(conn)
        self._forget(conn)
        self._close(conn)

    def _leave(self, conn: Connection) -> None:
        """Ends the sending and lets the client close: a reset could cut off the response."""
        conn.raw.shutdown(socket.SHUT_WR)
        conn.timeout = time.monotonic() + _LEAVE_S
        self._leaving.append(conn)
        self.poller.register(conn.raw, selectors.EVENT_READ, partial(self._on_leaving, conn))

    def _on_leaving(self, conn: Connection, client: Any) -> None:
        if client.fileno() < 0:
            return
        data = conn.read_now()
        if data is None:
            return
        conn.discarded += len(data)
        if not data or conn.discarded > _LEAVE_BYTES:
            self._close_leaving(conn)

    def _close_leaving(self, conn: Connection) -> None:
        self._leaving.remove(conn)
        self._forget(conn)
        self._close(conn)

    def _forget(self, conn: Connection) -> None:
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.raw)

    def _close(self, conn: Connection) -> None:
        self._count(-1)
        conn.close()

    def _count(self, change: int) -> None:
        self.nr_conns += change
        self.app.connection_counts.put(self, self.nr_conns)
