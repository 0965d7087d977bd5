"""The processes that hold galleries, and what each still holds of erased persons.

A process reports up to which change neither its memory nor the gallery files of its machine hold
anything that was erased. When the last process of a machine ends, its report stays: the files are
still there. The next process of that machine rewrites them and replaces it.
"""

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import ServerProcess
from match_server.folder_id import FolderIds
from shared.clock import Clock
from shared.errors import NotFound
from shared.ids import new_id

_REPORT_EVERY = timedelta(seconds=5)  # while there are changes
_ALIVE_EVERY = timedelta(seconds=30)
SILENT_AFTER = timedelta(seconds=90)
"""Without a report for so long, a process has ended, or its machine cannot reach the database."""


class ProcessReports:
    """The reports of this process. Thread-safe."""

    def __init__(self, database: Database, folder: FolderIds, clock: Clock) -> None:
        self._database = database
        self._folder = folder
        self._clock = clock
        self._id = new_id()
        self._lock = threading.Lock()
        self._last: tuple[int, datetime] | None = None  # number and moment of the last report

    def report(self, kind: str, seq: int) -> None:
        """Store that nothing erased up to `seq` is held, at most every 5 s. Raises Unavailable."""
        now = self._clock.now()
        with self._lock:
            if self._last is not None:
                age = now - self._last[1]
                if age < (_REPORT_EVERY if seq > self._last[0] else _ALIVE_EVERY):
                    return
            self._last = seq, now
        folder = self._folder.own()
        with self._database.write() as session:
            session.execute(delete(ServerProcess).where(_ended(folder, now)))
            session.merge(
                ServerProcess(
                    id=self._id, folder=folder, kind=kind, seq=seq, running=True, reported_at=now
                )
            )

    def end(self) -> None:
        """Store that this process has ended. Raises Unavailable."""
        with self._lock:
            last, self._last = self._last, None
        if last is None:
            return
        folder = self._folder.own()
        with self._database.write() as session:
            others = select(func.count()).where(
                ServerProcess.folder == folder,
                ServerProcess.running,
                ServerProcess.id != self._id,
            )
            mine = ServerProcess.id == self._id
            if session.scalar(others):
                session.execute(delete(ServerProcess).where(mine))
            else:
                session.execute(update(ServerProcess).where(mine).values(running=False))

    def files_are_clean(self) -> None:
        """Delete the reports of ended processes of this machine: its files hold nothing erased."""
        ended = _ended(self._folder.own(), self._clock.now())
        with self._database.read() as session:
            there = session.scalar(select(func.count()).where(ended))
        if there:
            with self._database.write() as session:
                session.execute(delete(ServerProcess).where(ended))


def processes(session: Session) -> Sequence[ServerProcess]:
    """All processes by the folder of their galleries."""
    return session.scalars(
        select(ServerProcess).order_by(ServerProcess.folder, ServerProcess.id)
    ).all()


def processes_behind(session: Session, seq: int) -> Sequence[ServerProcess]:
    """The processes that may still hold what change `seq` erased."""
    return [process for process in processes(session) if process.seq < seq]


def _ended(folder: str, now: datetime) -> ColumnElement[bool]:
    """The condition for processes of a machine that are silent, see `is_silent`."""
    silent = ServerProcess.running.is_(False) | (ServerProcess.reported_at < now - SILENT_AFTER)
    return (ServerProcess.folder == folder) & silent


def is_silent(process: ServerProcess, now: datetime) -> bool:
    return not process.running or process.reported_at < now - SILENT_AFTER


def forget_machine(database: Database, folder: str) -> int:
    """Delete the reports of a machine that is gone for good, with its disk. Raises NotFound."""
    with database.write() as session:
        known = [row for row in processes(session) if row.folder == folder]
        if not known:
            raise NotFound(f"no server has a folder of galleries with the id {folder!r}")
        for row in known:
            session.delete(row)
    return len(known)
