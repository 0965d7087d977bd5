"""A journal of erasures beside the database, to repeat them after a restore.

A database that is restored from a backup holds persons that were erased after the backup. So each
server writes into its data folder who was erased (only ids), and the position of the change feed.
At its start it compares both with the database. Persons that are in the database again are erased
again, and an epoch of the feed begins, because the numbers that followers know may have a different
meaning now.
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
from sqlalchemy import delete, select

from match_server.db.database import Database
from match_server.db.epochs import begin_epoch
from match_server.db.tables import Collection, Erasure, Person, ServerProcess
from match_server.schemas.base import Moment
from match_server.services.audit.chain import Note, note
from match_server.services.lookups import batches
from match_server.services.revision import FeedPosition, feed_position, shared_with
from shared.clock import Clock
from shared.errors import ConfigurationError
from shared.files import unwritable

log = logging.getLogger(__name__)

FILE: Final = "erasures.journal"
_POSITION: Final = "feed-position"
_OVERLAP = timedelta(days=1)  # for servers with different clocks and for long transactions


class Erased(BaseModel):
    """One line of the journal: an erased person."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    erasure: str
    person: str
    collection: int  # its number
    collection_created_at: Moment | None  # None: the collection was deleted before
    at: Moment


class ErasureJournal:
    """The journal of one data folder. Processes share it: they append lines under a lock."""

    def __init__(self, folder: Path, database: Database, clock: Clock) -> None:
        self._file = folder / FILE
        self._position = folder / _POSITION
        self._database = database
        self._clock = clock
        self._known: set[str] = set()  # erasures in the file
        self._newest: datetime | None = None
        self._read = 0  # bytes of the file that were read

    def add(self, erased: Erased) -> None:
        """Add an erasure. Raises Unavailable."""
        with self._translated():
            self._append([erased])

    def keep_up(self) -> None:
        """Add new erasures of the database, also those of other servers. Raises Unavailable."""
        with self._translated():
            self._read_on()
            erasures = select(Erasure.id, Erasure.person, Erasure.collection_number, Erasure.at)
            if self._newest is not None:
                erasures = erasures.where(Erasure.at > self._newest - _OVERLAP)
            with self._database.read() as session:
                reached = feed_position(session)
                rows = session.execute(erasures.order_by(Erasure.at)).all()
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
        """Add the lines of another server's journal. Returns how many were new.

        Raises ConfigurationError if the file is not a journal.
        """
        self._read_on()
        lines = _lines(other.read_bytes(), strict=True)
        new = [line for line in lines if line.erasure not in self._known]
        self._append(new)
        return len(new)

    def returned(self) -> list[tuple[str, str]]:
        """The erased persons that are in the database again: names of collections, and ids."""
        if not self._file.is_file():
            return []
        lines = list(_lines(self._file.read_bytes()))
        returned: list[tuple[str, str]] = []
        with self._database.read() as session:
            known = {
                erasure
                for ids in batches([line.erasure for line in lines])
                for erasure in session.scalars(select(Erasure.id).where(Erasure.id.in_(ids)))
            }
            collections = {row.number: row for row in session.scalars(select(Collection))}
            for line in lines:
                collection = collections.get(line.collection)
                if line.erasure in known or collection is None:
                    continue
                if not _is_same(collection.created_at, line.collection_created_at):
                    continue
                number = session.scalar(
                    select(Person.number).where(
                        Person.collection_number == collection.number,
                        Person.id == line.person,
                        Person.created_at < line.at,  # else enrolled again after the erasure
                    )
                )
                if number is not None and (collection.name, line.person) not in returned:
                    returned.append((collection.name, line.person))
        return returned

    def is_ahead(self) -> bool:
        """Whether the change feed was further than in this database: it was restored."""
        try:
            epoch, _, seq = self._position.read_text("ascii").rpartition(" ")
            noted = FeedPosition(epoch, int(seq))
        except (OSError, ValueError):
            return False
        with self._database.read() as session:
            newest = feed_position(session)
            shared = shared_with(session, newest, noted.epoch)
        # In another epoch of this database, that has begun because of it or for another reason.
        accounted_for = shared is not None and noted.epoch not in ("", newest.epoch)
        return not accounted_for and (shared is None or shared < noted.seq)

    def note_restored(self) -> None:
        """Begin an epoch of the change feed: followers that are ahead take a new snapshot."""
        with self._database.write() as session:
            begin_epoch(session.connection(), "restored")
            session.execute(delete(ServerProcess))  # of machines of that time
            note(session, Note("database_restored", self._clock.now()))
            reached = feed_position(session)
        self._note_position(reached)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(f"{self._file} cannot be written", error) from error

    def _read_on(self) -> None:
        """Read the lines that were added to the file."""
        if not self._file.is_file():
            return
        with self._file.open("rb") as stream:
            stream.seek(self._read)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]  # another process may be writing the last line
        self._read += len(whole)
        self._remember(list(_lines(whole)))

    def _append(self, lines: Iterable[Erased]) -> None:
        text = "".join(f"{line.model_dump_json()}\n" for line in lines)
        if not text:
            return
        descriptor = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":  # the last line is incomplete after a power cut
                    text = f"\n{text}"
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._read_on()

    def _remember(self, lines: Sequence[Erased]) -> None:
        self._known |= {line.erasure for line in lines}
        times = [line.at for line in lines]
        if times:
            self._newest = max([*times, *([] if self._newest is None else [self._newest])])

    def _note_position(self, reached: FeedPosition) -> None:
        text = f"{reached.epoch} {reached.seq}"
        try:
            if self._position.read_text("ascii") == text:
                return
        except (OSError, ValueError):
            pass
        beside = self._position.with_name(f".{_POSITION}.{os.getpid()}")
        beside.write_text(text, "ascii")
        beside.replace(self._position)


def _is_same(moment: datetime, noted: datetime | None) -> bool:
    """Whether a moment is the same as in a line, which holds milliseconds."""
    return noted is not None and abs(moment - noted) < timedelta(milliseconds=1)


def _lines(data: bytes, *, strict: bool = False) -> Iterator[Erased]:
    """The lines of a journal. Incomplete lines are skipped, or with `strict` raise."""
    for line in data.splitlines():
        try:
            yield Erased.model_validate_json(line)
        except ValidationError:
            if strict and line.strip():
                raise ConfigurationError(
                    f"this is not a journal of erasures ({FILE} of a data folder)"
                ) from None
