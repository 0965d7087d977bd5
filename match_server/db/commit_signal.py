"""A signal at every commit, so that threads that wait for a change need few queries.

A write of this process gives the signal at its commit. On PostgreSQL every commit of every process
gives it, by LISTEN and NOTIFY. Where that does not work, and on SQLite, a waiting thread polls. The
signal carries no data: it only says that a new query may return something new.
"""

import threading
import time
from collections.abc import Callable, Iterator

CHANNEL = "muster"  # of NOTIFY

_GAP_S = 0.05  # the shortest wait, however many commits there are
_LISTENING_S = 1.0  # the longest wait where every commit gives the signal
_PAUSE_S = 2.0  # after listening has failed

Listen = Callable[[], Iterator[None]]
"""Yields once when it listens, then at least twice a second; ends when it can no longer listen."""


class CommitSignal:
    """Thread-safe. Listening needs a thread, which starts at the first `wait`."""

    def __init__(self, listen: Listen | None) -> None:
        """Without `listen`, only the writes of this process give the signal."""
        self._listen = listen
        self._changed = threading.Condition()
        self._signals = 0
        self._listening = False
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    @property
    def signals(self) -> int:
        """The number of signals so far. Read it before a query and pass it to `wait` after it."""
        return self._signals

    def notify(self) -> None:
        """Give the signal."""
        with self._changed:
            self._signals += 1
            self._changed.notify_all()

    def wait(self, signals: int, poll_s: float) -> None:
        """Wait for the next signal after `signals`: at most `poll_s`, or 1 s while listening."""
        self._start()
        time.sleep(_GAP_S)
        with self._changed:
            timeout_s = _LISTENING_S if self._listening else poll_s
            self._changed.wait_for(lambda: self._signals != signals, timeout_s)

    def close(self) -> None:
        """Stop listening; needed before a process forks."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        self._stop.clear()

    def _start(self) -> None:
        if self._listen is None or self._thread is not None:
            return
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="commits", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while self._listen is not None and not self._stop.is_set():
            for _ in self._listen():
                if self._stop.is_set():
                    break
                if not self._listening:
                    self._listening = True
                    self.notify()  # commits before this moment gave no signal
            self._listening = False
            self._stop.wait(_PAUSE_S)
