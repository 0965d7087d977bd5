"""The lock that the writing threads of one process queue for."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from match_server.db.engines import BUSY_TIMEOUT_MS
from match_server.db.errors import NO_ANSWER
from shared.errors import Unavailable

_LONG_S = 1.0  # a write that takes longer is a long write


class WriteLock:
    """One thread at a time holds it. While a write takes long, only `waiting` threads may queue."""

    def __init__(self, waiting: int) -> None:
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(waiting)
        self._acquired_s = 0.0  # when it was last acquired

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock. Raises Unavailable after the busy timeout, or if the queue is full."""
        now_s = time.monotonic()
        until_s = now_s + BUSY_TIMEOUT_MS / 1e3
        while not self._lock.acquire(
            timeout=max(0.0, min(self._acquired_s + _LONG_S, until_s) - now_s)
        ):
            now_s = time.monotonic()
            if now_s >= min(self._acquired_s + _LONG_S, until_s):
                self._queue(until_s - now_s)
                break
        self._acquired_s = time.monotonic()
        try:
            yield
        finally:
            self._lock.release()

    def _queue(self, timeout_s: float) -> None:
        if not self._waiting.acquire(blocking=False):
            raise Unavailable(NO_ANSWER)
        try:
            if not self._lock.acquire(timeout=max(0.0, timeout_s)):
                raise Unavailable(NO_ANSWER)
        finally:
            self._waiting.release()
