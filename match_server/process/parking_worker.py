"""The worker that parks waiting requests, and gives them a thread when their wait is over."""

import contextlib
import selectors
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from match_server.api.parking import PARKING, Parked, Parking, Wait
from match_server.process.connection import BUFFER_BYTES, Connection
from match_server.process.http_worker import HttpWorker
from match_server.process.request_head import HeadParser

CONNECTIONS = 4000
"""Connections of one worker, parked ones included; beyond them the longest idle is closed."""
MOST_PARKED = 2000
"""Requests that one worker parks; beyond them a request is handled without waiting."""


class _Stream:
    """A response in pieces, which a wait may interrupt: it is closed only at its end."""

    def __init__(self, pieces: Iterable[bytes], response: Any) -> None:
        self._whole = pieces
        self._pieces = iter(pieces)
        self.response = response  # gunicorn's
        self.parked = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.parked = False
        piece: object = next(self._pieces)
        if isinstance(piece, Parked):
            self.parked = True
            raise _ParkedStream(piece.wait, self)
        return piece  # type: ignore[return-value]

    def close(self) -> None:
        if not self.parked:
            close = getattr(self._whole, "close", None)
            if close is not None:
                close()


class _ParkedStream(Parked):
    """A streamed response that continues later."""

    def __init__(self, wait: Wait, stream: _Stream) -> None:
        super().__init__(wait)
        self.stream = stream


class ParkingWorker(HttpWorker):
    """Parks waiting requests: they hold a connection and no thread.

    Requests whose wait is over use at most a quarter of the threads, so that a change for which
    thousands wait does not delay searches; the others queue in `_woken`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._parked: dict[Connection, Parked] = {}  # by connection
        self._woken: deque[tuple[Connection, Parked]] = deque()
        self._resumed = 0  # of them that have a thread again
        self._places = max(1, self.cfg.threads // 4)

    def load_wsgi(self) -> None:
        super().load_wsgi()
        application: Any = self.wsgi

        def offering(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            connection = self._serving.connection
            woken, connection.woken = connection.woken, False
            environ[PARKING] = Parking(len(self._parked) < MOST_PARKED, woken)
            pieces: Iterable[bytes] = application(environ, start_response)
            is_file = isinstance(pieces, environ["wsgi.file_wrapper"])
            return pieces if is_file else _Stream(pieces, start_response.__self__)

        self.wsgi: Any = offering

    def _serve(self, conn: Connection, handle: Callable[[Connection], Any]) -> None:
        try:
            super()._serve(conn, handle)
        except Parked as parked:
            self.method_queue.defer(self._park, conn, parked)

    def _serve_again(self, conn: Connection, handle: Callable[[Connection], Any]) -> None:
        """Handles a request whose wait is over, in a thread."""
        self._serve(conn, handle)
        self.method_queue.defer(self._give_place_back)

    def _give_place_back(self) -> None:
        self._resumed -= 1
        self._serve_woken()

    def murder_pending(self) -> None:
        super().murder_pending()
        if not self.alive:  # the application ends the waits
            for conn in list(self._parked):
                if conn.sock.unsent:
                    self._drop(conn)
                else:
                    self._wake(conn, self._parked[conn].wait)

    def _give_up_late(self, now_s: float) -> None:
        super()._give_up_late(now_s)
        late = [c for c in self._parked if c.sock.unsent and c.timeout <= now_s]
        for conn in late:
            self._drop(conn)

    def _park(self, conn: Connection, parked: Parked) -> None:
        conn.due = False
        self._parked[conn] = parked
        self._watch(conn)
        wait = parked.wait
        wait.start(lambda: self.method_queue.defer(self._wake, conn, wait))

    def _watch(self, conn: Connection) -> None:
        """Watches a parked client, and sends it the unsent rest of a stream."""
        conn.allow_time_to_send()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if conn.sock.unsent else 0)
        self.poller.register(conn.raw, events, partial(self._on_parked, conn))

    def _on_parked(self, conn: Connection, client: Any) -> None:
        """A parked client has sent or taken something, or has closed the connection."""
        if client.fileno() < 0 or conn not in self._parked:
            return
        try:
            if conn.sock.unsent and conn.sock.flush():
                self.poller.modify(client, selectors.EVENT_READ, partial(self._on_parked, conn))
                if conn.due:
                    self._wake(conn, self._parked[conn].wait)
                    return
            data = conn.read_now()
        except (OSError, ValueError):
            data = b""
        if data is None:
            return
        conn.received += data
        if not data or len(conn.received) > BUFFER_BYTES:
            self._drop(conn)

    def _drop(self, conn: Connection) -> None:
        """Ends a parked request whose client has closed the connection."""
        parked = self._parked.pop(conn)
        parked.wait.cancel()
        self._forget(conn)
        if isinstance(parked, _ParkedStream):
            parked.stream.parked = False
            parked.stream.close()
        self._close(conn)

    def _wake(self, conn: Connection, wait: Wait) -> None:
        parked = self._parked.get(conn)
        if parked is None or parked.wait is not wait:
            return  # closed, or woken twice
        if conn.sock.unsent:  # goes on when the client has taken the earlier bytes
            conn.due = True
            return
        del self._parked[conn]
        wait.cancel()
        self._forget(conn)
        self._woken.append((conn, parked))
        self._serve_woken()

    def _serve_woken(self) -> None:
        while self._woken and self._resumed < self._places:
            conn, parked = self._woken.popleft()
            self._resumed += 1
            if isinstance(parked, _ParkedStream):
                handle = partial(self._continue, parked.stream)
            else:
                self._restart(conn)
                handle = self.handle
            self.tpool.do(partial(self._serve_again, conn, handle))

    def _restart(self, conn: Connection) -> None:
        """Prepares to handle the request from the beginning: no byte of a response was sent."""
        later = conn.take_request()
        conn.parser = HeadParser(self.cfg, conn.sock, conn.client)
        conn.parser.unreader.unread(conn.request + later)
        conn.woken = True

    def _continue(self, stream: _Stream, conn: Connection) -> bool:
        """Sends more of a stream, in a thread. Returns whether to keep the connection."""
        conn.sock.allow_waiting()
        try:
            for piece in stream:
                stream.response.write(piece)
            stream.response.close()
        except OSError:  # the client has closed the connection
            return False
        except Exception:
            self.log.exception("Error handling request")
            return False
        finally:
            conn.sock.end_waiting()
            with contextlib.suppress(OSError):
                stream.close()
        return not stream.response.should_close() and self._keepalive_after(conn, True)
