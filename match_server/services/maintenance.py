"""The tasks that a server does by itself from time to time."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from match_server.db.leader_lock import LeaderLock
from shared.clock import Clock
from shared.errors import MusterError

log = logging.getLogger(__name__)

_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Task:
    """A periodic task. With `alone`, only the process that holds the leader lock runs it."""

    name: str
    every_s: float
    run: Callable[[], object]
    alone: bool


class Housekeeper:
    """One thread that runs the tasks when they are due. A task that fails runs again next time."""

    def __init__(self, tasks: Sequence[Task], leader: LeaderLock, clock: Clock) -> None:
        self._leader = leader
        self._clock = clock
        self._due = [(task, clock.monotonic_s() + task.every_s) for task in tasks]
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Call this after a fork, not before."""
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the task that runs now, and release the leader lock."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * _PAUSE_S)
            self._thread = None
        self._leader.release()

    def tick(self) -> None:
        """Run the tasks that are due."""
        now_s = self._clock.monotonic_s()
        for place, (task, due_s) in enumerate(self._due):
            if due_s > now_s or self._stop.is_set():
                continue
            self._due[place] = task, now_s + task.every_s
            try:
                if not task.alone or self._leader.acquire():
                    task.run()
            except MusterError as error:
                log.warning(
                    "A periodic task failed", extra={"task": task.name, "why": error.message}
                )
            except Exception:  # the other tasks must run: they write what is held in memory
                log.exception("A periodic task failed", extra={"task": task.name})

    def _run(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            self.tick()
