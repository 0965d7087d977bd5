"""The connection of a client as a thread uses it: no call waits for the client without a limit.

Bytes that do not fit into the kernel's buffers are kept. The worker's main loop sends them when the
client reads (see `match_server.process.http_worker`), so a response costs a thread only the time
to make it. A thread waits in two cases: for a request body that is not complete, and before it adds
to a response of which much is unsent. It waits only for a client with a valid key
(`allow_waiting`), and no longer than `Waiting` allows.
"""

import errno
import logging
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from shared.errors import MusterError, RequestTimeout, Unavailable

KEPT_BYTES = 1024 * 1024
"""Of a response, before its thread waits for the client; one piece may be longer."""
SLOWEST_BYTES_PER_S = 1024
"""A client that sends or takes less is cut off when its timeout is over."""
_FAST_BYTES_PER_S = 1024 * 1024
_SLOW_AFTER_S = 0.25
_JOINED_BYTES = 64 * 1024
_WANTS = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


log = logging.getLogger(__name__)


class SlowClients:
    """Limits the threads of a worker that wait for slow clients at once."""

    def __init__(self, most: int) -> None:
        self._places = threading.BoundedSemaphore(most)

    def take(self) -> bool:
        return self._places.acquire(blocking=False)

    def give_back(self) -> None:
        self._places.release()


class Waiting:
    """Counts and limits the time that a thread waits for a client during a request.

    The sum of all waits ends with `timeout_s` and a second for each kilobyte that has moved, so
    that neither a silent nor a slow client can hold a thread for long. A client counts as slow when
    its waits take more than a quarter of a second and a second for each megabyte: only as many
    threads as `slow` has places wait for such clients.
    """

    def __init__(self, timeout_s: float, slow: SlowClients) -> None:
        self._left_s = timeout_s
        self._fast_s = _SLOW_AFTER_S  # left until the client counts as slow
        self._slow = slow
        self._has_place = False

    def moved(self, count: int) -> None:
        self._left_s += count / SLOWEST_BYTES_PER_S
        self._fast_s += count / _FAST_BYTES_PER_S

    def wait(self, poll: "select.poll") -> None:
        """Waits until the poll reports an event.

        Raises RequestTimeout, and Unavailable when too many clients are slow.
        """
        if self._left_s <= 0:
            raise RequestTimeout("the client sends or takes its data too slowly")
        if self._fast_s <= 0 and not self._has_place:
            if not self._slow.take():
                raise Unavailable(
                    "too many clients send or take their data slowly; try again later"
                )
            self._has_place = True
        longest_s = self._left_s if self._has_place else min(self._left_s, self._fast_s)
        began_s = time.monotonic()
        poll.poll(max(1.0, longest_s * 1000))
        took_s = time.monotonic() - began_s
        self._left_s -= took_s
        self._fast_s -= took_s

    def end(self) -> None:
        if self._has_place:
            self._has_place = False
            self._slow.give_back()


class ClientSocket:
    """Stands in for the socket in gunicorn and the application; the socket itself never blocks."""

    def __init__(self, raw: socket.socket, timeout_s: float, slow: SlowClients) -> None:
        self.raw = raw
        self.unsent = 0  # bytes that are kept
        self._kept: deque[memoryview] = deque()
        self._timeout_s = timeout_s
        self._slow = slow
        self._waiting: Waiting | None = None
        self._after: list[Callable[[], None]] = []

    def call_after(self, work: Callable[[], None]) -> None:
        """Calls `work` in this thread when it has made the response of this request."""
        self._after.append(work)

    def end_request(self) -> None:
        """Ends the waiting, and does the work that was left for after the response."""
        self.end_waiting()
        if self._after:
            work, self._after = self._after, []
            for call in work:
                try:
                    call()
                except Exception:
                    log.exception("Failed to finish a request after its response")

    def allow_waiting(self) -> None:
        """Lets a thread wait for this client until the request ends."""
        if self._waiting is None:
            self._waiting = Waiting(self._timeout_s, self._slow)

    def end_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.end()

    def notice_silence(self) -> None:
        """Ends the connection when the client's machine confirms nothing of what was sent to it.

        The kernel alone would wait a quarter of an hour for a machine that lost its power.
        """
        timeout_ms = int(self._timeout_s * 1000)
        self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)

    def recv(self, size: int) -> bytes:
        """Reads. Raises RequestTimeout, and Unavailable when too many clients are slow."""
        while True:
            with suppress(*_WANTS):
                data = self.raw.recv(size)
                if self._waiting is not None:
                    self._waiting.moved(len(data))
                return data
            self._wait(select.POLLIN)

    def sendall(self, data: bytes) -> None:
        """Sends or keeps all of it. Raises ConnectionResetError if the client takes too little."""
        while not self.flush() and self.unsent > KEPT_BYTES:
            try:
                self._wait(0)
            except MusterError as error:  # the response has begun: it cannot be replaced
                raise ConnectionResetError(errno.ECONNRESET, error.message) from None
        if data:
            self._kept.append(memoryview(data))
            self.unsent += len(data)
            if not _is_head(data):  # a head is sent together with what follows
                self.flush()

    def send(self, data: bytes) -> int:
        self.sendall(data)
        return len(data)

    def flush(self) -> bool:
        """Sends what is kept, as far as the client takes it now. Returns whether all is sent."""
        with suppress(*_WANTS):
            while self._kept:
                if len(self._kept) > 1 and self.unsent <= _JOINED_BYTES:
                    self._kept = deque([memoryview(b"".join(self._kept))])
                sent = self.raw.send(self._kept[0])
                self.unsent -= sent
                if self._waiting is not None:
                    self._waiting.moved(sent)
                if sent == len(self._kept[0]):
                    self._kept.popleft()
                else:
                    self._kept[0] = self._kept[0][sent:]
        return not self._kept

    def takes(self) -> bool:
        """Whether a small piece could be sent now without being kept."""
        if not self.flush():
            return False
        poll = select.poll()
        poll.register(self.raw, select.POLLOUT)
        return bool(poll.poll(0))

    def _wait(self, event: int) -> None:
        """Waits until there is something to read (POLLIN), or kept bytes can be sent."""
        if self._waiting is None:
            raise RequestTimeout("the body did not come together with the head of the request")
        poll = select.poll()
        poll.register(self.raw, event | (select.POLLOUT if self._kept else 0))
        self._waiting.wait(poll)
        self.flush()

    def fileno(self) -> int:
        return self.raw.fileno()

    def setblocking(self, _blocking: bool) -> None:
        """Does nothing: the socket never blocks."""

    def shutdown(self, how: int) -> None:
        self.raw.shutdown(how)

    def close(self) -> None:
        self.end_waiting()
        self._kept.clear()
        self.unsent = 0
        self.raw.close()


def _is_head(data: bytes) -> bool:
    """Whether these bytes begin a response, other than an interim one (1xx)."""
    return data.startswith(b"HTTP/") and data[9:10] != b"1"
