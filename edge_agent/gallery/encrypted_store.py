"""The device's copy of one collection: encrypted on its disk, and consistent at every moment.

SQLite in WAL mode with `synchronous=FULL`: the changes of the feed and their number are written in
one transaction, so that the state is right also after `kill -9` or a power cut. Every person and
template is encrypted (AES-256-GCM) and can be decrypted in its own row only; ids and names of
persons are inside. Not encrypted are the server's numbers and the count of rows.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.gallery.schema import as_error, delete_database, empty, open_database
from shared.encryption import Keyring, about
from shared.errors import Damaged, KeyMissing, MusterError
from shared.wire.change_feed import (
    FeedChanges,
    FeedPerson,
    FeedTemplates,
    Gallery,
    SnapshotHead,
    SnapshotPart,
)

_BATCH: Final = 2048  # templates decrypted at a time
_MAX_BYTES: Final = 512 * 1024 * 1024

Numbers = NDArray[np.uint64]
Rows = NDArray[np.float16]


class State(BaseModel):
    """Which changes of the feed the store holds; kept in the store itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    gallery: Gallery
    seq: int  # of the feed: the store holds all up to it, once the snapshot is whole
    after: int | None = None  # during a snapshot: the last template so far
    caught_up: bool = False  # with the changes since the snapshot: only then it is complete
    server_at: datetime = Field(  # the server's clock at its last response
        validation_alias="told_at", serialization_alias="told_at"
    )
    seen_at: datetime  # the latest time that the device has known since

    @property
    def whole(self) -> bool:
        return self.after is None


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """What changed in the store, for the index in memory."""

    removed: Numbers
    numbers: Numbers  # of the templates that are new
    rows: Rows


class Store:
    """One collection's copy. Thread-safe: one thread writes while others read.

    Raises Unavailable when the disk fails or is full, Damaged or KeyMissing when the content cannot
    be decrypted: `clear` it then, the server has everything. A single damaged row is skipped and
    counted in `lost`, because a device that is offline needs all others.
    """

    def __init__(
        self, path: Path, collection: str, keys: Keyring, max_bytes: int = _MAX_BYTES
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._collection = collection
        self._keys = keys
        self._lost: set[tuple[str, int]] = set()
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._writer = self._open()
        self._reader = self._open()

    def state(self) -> State | None:
        """Returns None where the store is empty."""
        with self._reads() as cursor:
            row = cursor.execute("SELECT sealed FROM state").fetchone()
        if row is None:
            return None
        try:
            return State.model_validate_json(self._keys.open(row[0], self._about("state", 1)))
        except ValidationError as error:
            raise Damaged("the gallery's state is of another version") from error

    @property
    def lost(self) -> int:
        """Number of rows that could not be decrypted so far, of templates and of persons."""
        return len(self._lost)

    def lost_templates(self) -> Numbers:
        """Returns the templates whose own row, or whose person's row, cannot be decrypted."""
        return np.array([n for kind, n in self._lost.copy() if kind == "template"], dtype=np.uint64)

    def begin(self, head: SnapshotHead) -> None:
        """Empties the store at the beginning of a snapshot."""
        self._lost = set()
        with self._transaction() as cursor:
            empty(cursor)
            self._put_state(
                cursor,
                State(
                    gallery=head.gallery, seq=head.seq, after=0, server_at=head.at, seen_at=head.at
                ),
            )
        self._truncate_log()

    def extend(self, part: SnapshotPart) -> None:
        """Adds a part of the snapshot, and stores the position in it."""
        state = self._known_state()
        with self._transaction() as cursor:
            self._put_persons(cursor, part.persons)
            self._put_templates(cursor, part.templates, state.gallery.dimension)
            self._put_state(cursor, state.model_copy(update={"after": part.after}))

    def complete(self) -> None:
        """Ends the snapshot."""
        state = self._known_state()
        with self._transaction() as cursor:
            self._put_state(cursor, state.model_copy(update={"after": None}))

    def apply(self, changes: FeedChanges) -> Applied:
        """Applies the changes and stores their number, in one transaction."""
        before = self._known_state()
        with self._transaction() as cursor:
            removed = set(changes.removed)
            for number in changes.left:
                rows = cursor.execute("SELECT number FROM template WHERE person = ?", (number,))
                removed |= {row[0] for row in rows}
            changed = _persons_of(cursor, removed) | set(changes.left)
            cursor.executemany("DELETE FROM template WHERE number = ?", [(n,) for n in removed])
            self._put_persons(cursor, changes.persons)
            numbers, added = self._put_templates(
                cursor, changes.templates, changes.gallery.dimension
            )
            # A person without templates is deleted, with the name.
            changed |= {person.number for person in changes.persons}
            cursor.executemany(
                "DELETE FROM person WHERE number = ?1"
                " AND NOT EXISTS (SELECT 1 FROM template WHERE person = ?1)",
                [(number,) for number in changed],
            )
            self._put_state(
                cursor,
                State(
                    gallery=changes.gallery,
                    seq=changes.seq,
                    caught_up=before.caught_up or not changes.more,
                    server_at=changes.at,
                    seen_at=changes.at,
                ),
            )
        if removed:
            self._truncate_log()
        return Applied(np.array(sorted(removed), dtype=np.uint64), numbers, added)

    def note_time(self, seen_at: datetime) -> None:
        """Stores the time: a device without a battery clock must not start with an old one."""
        state = self.state()
        if state is not None and seen_at > state.seen_at:
            with self._transaction() as cursor:
                self._put_state(cursor, state.model_copy(update={"seen_at": seen_at}))

    def clear(self) -> None:
        """Deletes everything, also a damaged file."""
        self._lost = set()
        try:
            with self._transaction() as cursor:
                empty(cursor)
            self._truncate_log()
        except Damaged:
            with self._writing, self._reading:
                self._writer.close()
                self._reader.close()
                delete_database(self._path)
                self._writer, self._reader = self._open(), self._open()

    def drop_persons(self, numbers: Sequence[int]) -> Numbers:
        """Deletes persons with all of their templates; returns the numbers of the templates."""
        dropped: list[int] = []
        with self._transaction() as cursor:
            for number in numbers:
                rows = cursor.execute("SELECT number FROM template WHERE person = ?", (number,))
                dropped += [row[0] for row in rows]
                cursor.execute("DELETE FROM template WHERE person = ?", (number,))
                cursor.execute("DELETE FROM person WHERE number = ?", (number,))
        self._truncate_log()
        return np.array(dropped, dtype=np.uint64)

    def templates(self) -> Iterator[tuple[Numbers, Rows]]:
        """Yields all templates in batches."""
        state = self._known_state()
        after = 0
        while True:
            with self._reads() as cursor:
                rows = cursor.execute(
                    "SELECT number, person, sealed FROM template WHERE number > ?"
                    " ORDER BY number LIMIT ?",
                    (after, _BATCH),
                ).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            yield self._decrypted(rows, state)

    def rows(self, numbers: Sequence[int]) -> dict[int, Rows]:
        """Returns the stored templates with these numbers."""
        if not numbers:
            return {}
        with self._reads() as cursor:
            stored = cursor.execute(
                "SELECT number, person, sealed FROM template"
                " WHERE number IN (SELECT value FROM json_each(?))",
                (json.dumps(list(numbers)),),
            ).fetchall()
        readable, rows = self._decrypted(stored, self._known_state())
        return dict(zip(readable.tolist(), rows, strict=True))

    def persons_of(self, numbers: Sequence[int]) -> dict[int, FeedPerson]:
        """Returns the persons of these templates, by the templates' numbers."""
        with self._reads() as cursor:
            rows = cursor.execute(
                "SELECT template.number, person.number, person.sealed FROM template"
                " JOIN person ON person.number = template.person"
                " WHERE template.number IN (SELECT value FROM json_each(?))",
                (json.dumps(list(numbers)),),
            ).fetchall()
        persons = {}
        for number, person_number, sealed in rows:
            person = self._person(person_number, sealed)
            if person is None:
                self._lost.add(("template", number))
            else:
                persons[number] = person
        return persons

    def numbers(self) -> Numbers:
        """Returns the numbers of the templates whose row and whose person's row exist."""
        with self._reads() as cursor:
            rows = cursor.execute(
                "SELECT template.number FROM template JOIN person ON person.number = person"
            )
            return np.fromiter((number for (number,) in rows), dtype=np.uint64)

    def persons(self) -> Iterator[FeedPerson]:
        """Yields all persons."""
        after = 0
        while True:
            with self._reads() as cursor:
                rows = cursor.execute(
                    "SELECT number, sealed FROM person WHERE number > ? ORDER BY number LIMIT ?",
                    (after, _BATCH),
                ).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            persons = (self._person(number, sealed) for number, sealed in rows)
            yield from (person for person in persons if person is not None)

    def close(self) -> None:
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def _open(self) -> sqlite3.Connection:
        return open_database(self._path, self._max_bytes)

    def _known_state(self) -> State:
        state = self.state()
        if state is None:
            raise Damaged("the gallery is empty, so nothing can be added to it")
        return state

    def _put_state(self, cursor: sqlite3.Cursor, state: State) -> None:
        sealed = self._keys.seal(
            state.model_dump_json(by_alias=True).encode(), self._about("state", 1)
        )
        cursor.execute("INSERT OR REPLACE INTO state (id, sealed) VALUES (1, ?)", (sealed,))

    def _put_persons(self, cursor: sqlite3.Cursor, persons: Sequence[FeedPerson]) -> None:
        cursor.executemany(
            "INSERT OR REPLACE INTO person (number, sealed) VALUES (?, ?)",
            [
                (
                    person.number,
                    self._keys.seal(
                        person.model_dump_json().encode(), self._about("person", person.number)
                    ),
                )
                for person in persons
            ],
        )

    def _put_templates(
        self, cursor: sqlite3.Cursor, templates: FeedTemplates, dimension: int
    ) -> tuple[Numbers, Rows]:
        """Stores templates; returns those that were not stored before."""
        rows = templates.rows(dimension)
        new = []
        for index, (number, person) in enumerate(
            zip(templates.numbers, templates.persons, strict=True)
        ):
            sealed = self._keys.seal(rows[index].tobytes(), self._about("template", number, person))
            cursor.execute(
                "INSERT OR IGNORE INTO template (number, person, sealed) VALUES (?, ?, ?)",
                (number, person, sealed),
            )
            if cursor.rowcount:
                new.append(index)
        numbers = np.array([templates.numbers[index] for index in new], dtype=np.uint64)
        return numbers, rows[new]

    def _decrypted(
        self, rows: Sequence[tuple[int, int, bytes]], state: State
    ) -> tuple[Numbers, Rows]:
        """Returns numbers and templates of the rows that can be decrypted."""
        numbers, plain = [], []
        for number, person, sealed in rows:
            try:
                plain.append(self._keys.open(sealed, self._about("template", number, person)))
                numbers.append(number)
            except Damaged:
                self._lost.add(("template", number))
        values = np.frombuffer(b"".join(plain), dtype="<f2")
        shaped = values.reshape(len(numbers), state.gallery.dimension)
        return np.array(numbers, dtype=np.uint64), shaped

    def _person(self, number: int, sealed: bytes) -> FeedPerson | None:
        """Returns None where the row cannot be decrypted."""
        try:
            plain = self._keys.open(sealed, self._about("person", number))
        except Damaged:
            self._lost.add(("person", number))
            return None
        return FeedPerson.model_validate_json(plain)

    def _about(self, kind: str, *parts: int) -> bytes:
        return about(f"gallery-{kind}", self._collection, *parts)

    def _truncate_log(self) -> None:
        """Removes the (encrypted) copies of erased rows from the write-ahead log."""
        with self._writing:
            try:
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as error:
                raise as_error(self._path, error) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._writing:
            cursor = self._writer.cursor()
            try:
                cursor.execute("BEGIN IMMEDIATE")
                yield cursor
                cursor.execute("COMMIT")
            except sqlite3.Error as error:
                _roll_back(self._writer)
                raise as_error(self._path, error) from error
            except BaseException:
                _roll_back(self._writer)
                raise

    @contextmanager
    def _reads(self) -> Iterator[sqlite3.Cursor]:
        with self._reading:
            try:
                yield self._reader.cursor()
            except sqlite3.Error as error:
                raise as_error(self._path, error) from error


def open_store(
    path: Path,
    collection: str,
    keys: Keyring,
    *,
    max_bytes: int = _MAX_BYTES,
    repair: bool = True,
) -> tuple[Store, State | None, str | None]:
    """Returns the store at `path`, its state, and why the file was replaced (None: it was not).

    A file that cannot be decrypted (another key, damage) is useless and is deleted. Without
    `repair` it is left as it is, and MusterError is raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return _opened_store(Store(path, collection, keys, max_bytes))
    except (Damaged, KeyMissing) as error:
        why = error.message
        if not repair:
            raise
    delete_database(path)
    return Store(path, collection, keys, max_bytes), None, why


def _opened_store(store: Store) -> tuple[Store, State | None, str | None]:
    try:
        return store, store.state(), None
    except MusterError:
        store.close()
        raise


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _persons_of(cursor: sqlite3.Cursor, numbers: set[int]) -> set[int]:
    rows = cursor.execute(
        "SELECT DISTINCT person FROM template WHERE number IN (SELECT value FROM json_each(?))",
        (json.dumps(sorted(numbers)),),
    )
    return {row[0] for row in rows}
