"""What a server does by itself, now and then, besides answering."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select

from match_server.db.database import Database
from match_server.db.tables import Lease
from shared.clock import Clock
from shared.errors import MusterError
from shared.ids import new_id

log = logging.getLogger(__name__)

_LEASE_S = 120.0
_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Task:
    """Something to be done every so often: by every process, or by one for all (`alone`)."""

    name: str
    every_s: float
    run: Callable[[], object]
    alone: bool


class HouseLease:
    """The right to keep house for all processes of a database, until it is not renewed."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._id = new_id()

    def mine(self) -> bool:
        """Whether this process has it: it is taken when nobody has, and renewed in good time."""
        now = self._clock.now()
        with self._database.read() as session:
            row = session.get(Lease, "housekeeping")
        if row is not None and row.until > now:
            if row.holder != self._id:
                return False
            if row.until - now > timedelta(seconds=_LEASE_S / 2):
                return True
        return self._take(now)

    def give_back(self) -> None:
        """Let the next one have it at once."""
        with self._database.write() as session:
            row = session.get(Lease, "housekeeping")
            if row is not None and row.holder == self._id:
                session.delete(row)

    def _take(self, now: datetime) -> bool:
        until = now + timedelta(seconds=_LEASE_S)
        with self._database.write() as session:
            row = session.scalars(
                select(Lease).where(Lease.name == "housekeeping").with_for_update()
            ).one_or_none()
            if row is None:
                session.add(Lease(name="housekeeping", holder=self._id, until=until))
            elif row.holder != self._id and row.until > now:
                return False
            else:
                row.holder, row.until = self._id, until
        return True


class Housekeeper:
    """One thread that does the tasks when they are due. What fails is tried again next time."""

    def __init__(self, tasks: Sequence[Task], lease: HouseLease, clock: Clock) -> None:
        self._lease = lease
        self._clock = clock
        self._due = [(task, clock.monotonic_s() + task.every_s) for task in tasks]
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, in a thread of its own; after a fork, not before."""
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End soon, and leave the house to others."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * _PAUSE_S)
            self._thread = None
            try:
                self._lease.give_back()
            except MusterError as error:  # it runs out by itself
                log.warning("the lease stays taken for a while", extra={"why": error.message})

    def tick(self) -> None:
        """Do what is due."""
        now_s = self._clock.monotonic_s()
        for place, (task, due_s) in enumerate(self._due):
            if due_s > now_s or self._stop.is_set():
                continue
            self._due[place] = task, now_s + task.every_s
            try:
                if not task.alone or self._lease.mine():
                    task.run()
            except MusterError as error:
                log.warning("housekeeping", extra={"task": task.name, "why": error.message})
            except Exception:  # the other tasks must go on: what was gathered is written by them
                log.exception("housekeeping", extra={"task": task.name})

    def _run(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            self.tick()
