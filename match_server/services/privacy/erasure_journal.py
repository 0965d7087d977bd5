"""Erasures as a restored database would not know them: noted beside it, and done again.

A database that is restored from an export or a backup holds those whom somebody erased since. Each
server notes in its data folder who was erased (ids alone), and how far the change feed had come. At
its start it compares: whoever is in the database again is erased again, and those who follow the
feed are told to begin anew, because the numbers that they know now mean something else.
"""

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import select, update

from match_server.db.database import Database
from match_server.db.tables import Collection, Erasure, Person
from match_server.schemas.base import Moment
from match_server.services.audit.chain import Note, note
from match_server.services.change_feed import position
from match_server.services.lookups import batches
from shared.clock import Clock
from shared.errors import ConfigurationError
from shared.files import unwritable

log = logging.getLogger(__name__)

FILE: Final = "erasures.journal"
_POSITION: Final = "feed-position"
_AHEAD: Final = 2**62  # of any change feed
_OVERLAP = timedelta(days=1)  # clocks of several servers, and transactions that end late


class Erased(BaseModel):
    """One line: who was erased, of which collection, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    erasure: str
    person: str
    collection: int  # its number
    collection_created_at: Moment | None  # None: the collection was gone before this was noted
    at: Moment


class ErasureJournal:
    """The notes in one data folder. Processes may share it: lines are appended under a lock."""

    def __init__(self, folder: Path, database: Database, clock: Clock) -> None:
        self._file = folder / FILE
        self._position = folder / _POSITION
        self._database = database
        self._clock = clock
        self._known: set[str] = set()  # erasures in the file
        self._newest: datetime | None = None
        self._read = 0  # bytes of the file

    def add(self, erased: Erased) -> None:
        """Note one that was erased just now. Raises Unavailable."""
        with self._translated():
            self._append([erased])

    def keep_up(self) -> None:
        """Note what was erased since, also by other servers. Raises Unavailable."""
        with self._translated():
            self._read_on()
            wanted = select(Erasure.id, Erasure.person, Erasure.collection_number, Erasure.at)
            if self._newest is not None:
                wanted = wanted.where(Erasure.at > self._newest - _OVERLAP)
            with self._database.read() as session:
                reached = position(session)
                rows = session.execute(wanted.order_by(Erasure.at)).all()
                new = [row for row in rows if row.id not in self._known]
                created = dict(
                    session.execute(select(Collection.number, Collection.created_at)).all()
                    if new
                    else []
                )
            self._append(
                Erased(
                    erasure=row.id,
                    person=row.person,
                    collection=row.collection_number,
                    collection_created_at=created.get(row.collection_number),
                    at=row.at,
                )
                for row in new
            )
            self._note_position(reached)

    def merge(self, other: Path) -> int:
        """Take over the lines of another server's journal; answers how many were new.

        Raises ConfigurationError when it is none.
        """
        self._read_on()
        found = _lines(other.read_bytes(), strict=True)
        new = [one for one in found if one.erasure not in self._known]
        self._append(new)
        return len(new)

    def returned(self) -> list[tuple[str, str]]:
        """Who is in the database although somebody erased them: collection and id."""
        if not self._file.is_file():
            return []
        noted = list(_lines(self._file.read_bytes()))
        found: list[tuple[str, str]] = []
        with self._database.read() as session:
            known = {
                erasure
                for ids in batches([one.erasure for one in noted])
                for erasure in session.scalars(select(Erasure.id).where(Erasure.id.in_(ids)))
            }
            owners = {one.number: one for one in session.scalars(select(Collection))}
            for one in noted:
                owner = owners.get(one.collection)
                if one.erasure in known or owner is None:
                    continue
                if not _is_same(owner.created_at, one.collection_created_at):
                    continue
                there = session.scalar(
                    select(Person.number).where(
                        Person.collection_number == owner.number,
                        Person.id == one.person,
                        Person.created_at < one.at,  # else enrolled anew, after the erasure
                    )
                )
                if there is not None and (owner.name, one.person) not in found:
                    found.append((owner.name, one.person))
        return found

    def is_ahead(self) -> bool:
        """Whether the feed had come further than the database knows: it is an older one."""
        try:
            noted = int(self._position.read_text("ascii"))
        except (OSError, ValueError):
            return False
        with self._database.read() as session:
            return position(session) < noted

    def expect_restored(self) -> None:
        """Let `is_ahead` say so at the next start, whatever the database comes to be."""
        self._note_position(_AHEAD)

    def restart_followers(self) -> None:
        """Let everybody who follows the change feed take a snapshot; galleries are read anew."""
        with self._database.write() as session:
            session.execute(update(Collection).values(generation=Collection.generation + 1))
            note(session, Note("database_restored", self._clock.now()))
            reached = position(session)
        self._note_position(reached)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(f"{self._file} cannot be written", error) from error

    def _read_on(self) -> None:
        """Learn what is in the file by now."""
        if not self._file.is_file():
            return
        with self._file.open("rb") as stream:
            stream.seek(self._read)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]  # another process may be writing the last line
        self._read += len(whole)
        self._remember(list(_lines(whole)))

    def _append(self, lines: Iterable[Erased]) -> None:
        text = "".join(f"{one.model_dump_json()}\n" for one in lines)
        if not text:
            return
        descriptor = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":  # a line that was cut off when a machine died
                    text = f"\n{text}"
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._read_on()

    def _remember(self, lines: Sequence[Erased]) -> None:
        self._known |= {one.erasure for one in lines}
        times = [one.at for one in lines]
        if times:
            self._newest = max([*times, *([] if self._newest is None else [self._newest])])

    def _note_position(self, reached: int) -> None:
        try:
            if self._position.read_text("ascii") == str(reached):
                return
        except (OSError, ValueError):
            pass
        beside = self._position.with_name(f".{_POSITION}.{os.getpid()}")
        beside.write_text(str(reached), "ascii")
        beside.replace(self._position)


def _is_same(moment: datetime, noted: datetime | None) -> bool:
    """Whether a moment is the one that a line holds, in which it has whole milliseconds."""
    return noted is not None and abs(moment - noted) < timedelta(milliseconds=1)


def _lines(data: bytes, *, strict: bool = False) -> Iterator[Erased]:
    """The lines of a journal; those that a dying machine cut off are left aside."""
    for line in data.splitlines():
        try:
            yield Erased.model_validate_json(line)
        except ValidationError:
            if strict and line.strip():
                raise ConfigurationError(
                    f"this is no journal of erasures ({FILE} of a data folder)"
                ) from None
