"""The threads of a worker, and the connections that have sent nothing of their next request.

The idle threads wait for all of these connections, one thread after the other. The one that waits
is woken when a client sends something, lets the next one wait, reads the request and handles it. So
most requests are not handed from one thread to another. The kernel reports connections in the order
in which they became readable, so each is served however many more connections than threads there
are.

If all idle threads waited at once, each of many would take a request and then wait for the
interpreter's lock, some for a tenth of a second, while the thread that has this lock takes and
handles one request after the other.
"""

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable

from match_server.process.connection import Connection

_ONCE = select.EPOLLIN | select.EPOLLONESHOT

log = logging.getLogger(__name__)


class RequestThreads:
    """Calls `read` in a thread when a kept connection is readable, and does other work given to it.

    A connection is kept until a thread has got it or `take` has removed it.
    """

    def __init__(self, count: int, read: Callable[[Connection], None]) -> None:
        self._read = read
        self._kept: dict[int, Connection] = {}  # by file descriptor, longest kept first
        self._work: deque[Callable[[], None]] = deque()
        self._poll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll.register(self._wakeup, select.EPOLLIN | select.EPOLLET)  # one thread each time
        self._ended = False
        self._turn = threading.Lock()
        self._threads = [threading.Thread(target=self._run, name="request") for _ in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def do(self, work: Callable[[], None]) -> None:
        """Lets a thread do this, in the order of the calls."""
        self._work.append(work)
        self._wake()

    def keep(self, conn: Connection) -> None:
        """Waits until a client sends its next request."""
        number = conn.raw.fileno()
        self._kept[number] = conn
        if conn.is_polled:
            self._poll.modify(number, _ONCE)
        else:
            conn.is_polled = True
            self._poll.register(number, _ONCE)

    def kept(self) -> list[Connection]:
        """Returns the kept connections, longest kept first."""
        return list(self._kept.values())

    def take(self, conn: Connection) -> bool:
        """Stops keeping a connection. Returns False if a thread has got it."""
        return self._kept.pop(conn.raw.fileno(), None) is conn

    def shutdown(self, wait: bool = False) -> None:
        """Ends the threads, each after its request."""
        self._ended = True
        self._wake()
        if wait:
            for thread in self._threads:
                thread.join()

    def _wake(self) -> None:
        os.eventfd_write(self._wakeup, 1)

    def _run(self) -> None:
        while not self._ended:
            with self._turn:
                ((number, _),) = self._poll.poll(maxevents=1)
            try:
                if number == self._wakeup:
                    self._do_next()
                elif (conn := self._kept.pop(number, None)) is not None:  # else taken since
                    self._read(conn)
            except Exception:
                log.exception("Request failed in its thread")
        self._wake()  # for the next thread

    def _do_next(self) -> None:
        if not self._work:  # the end, or a thread that was woken twice
            return
        work = self._work.popleft()
        if self._work:
            self._wake()
        work()
