"""Wakes whoever waits for the database to change, so that waiting needs few questions.

A write of this process rings at its commit. On PostgreSQL every commit of every process rings, by
LISTEN and NOTIFY; while that does not work, and on SQLite, whoever waits looks now and then, as
without a bell: it never carries news, it only says that looking may be worth it.
"""

import threading
import time
from collections.abc import Callable, Iterator

CHANNEL = "muster"  # of NOTIFY

_GAP_S = 0.05  # between two looks of one who waits, however often it rings
_LISTENING_S = 1.0  # between two looks without a ring, where every commit rings
_PAUSE_S = 2.0  # before listening is tried again

Listen = Callable[[], Iterator[None]]
"""Yields when it listens, then at least twice a second, and ends when it cannot listen any more."""


class Bell:
    """Thread-safe. Listening takes a thread, which begins when somebody waits."""

    def __init__(self, listen: Listen | None) -> None:
        """Without `listen`, only the writes of this process ring."""
        self._listen = listen
        self._changed = threading.Condition()
        self._rings = 0
        self._listening = False
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    @property
    def rings(self) -> int:
        """To be asked before looking, and given to `wait` after it: no ring falls in between."""
        return self._rings

    def ring(self) -> None:
        with self._changed:
            self._rings += 1
            self._changed.notify_all()

    def wait(self, rings: int, poll_s: float) -> None:
        """Until it rings after `rings`, or looking is due anyway."""
        self._start()
        time.sleep(_GAP_S)
        with self._changed:
            patience_s = _LISTENING_S if self._listening else poll_s
            self._changed.wait_for(lambda: self._rings != rings, patience_s)

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
                self._thread = threading.Thread(target=self._hear, name="bell", daemon=True)
                self._thread.start()

    def _hear(self) -> None:
        while self._listen is not None and not self._stop.is_set():
            for _ in self._listen():
                if self._stop.is_set():
                    break
                if not self._listening:
                    self._listening = True
                    self.ring()  # what rang before was not heard
            self._listening = False
            self._stop.wait(_PAUSE_S)
