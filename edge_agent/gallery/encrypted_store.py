"""The box's copy of one collection: encrypted on its disk, whole at every moment.

SQLite in WAL mode with `synchronous=FULL`: what the feed said and how far it was followed are
written in one transaction, so that after `kill -9` or a power cut the store says of itself exactly
what it holds. Every person and template is an envelope (AES-256-GCM) that opens only in its own
row; ids and names of persons are inside. In the open stand numbers that the server gave, and how
many rows there are.
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
from pydantic import BaseModel, ConfigDict, ValidationError

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

_READ: Final = 2048  # templates opened at a time
_MAX_BYTES: Final = 512 * 1024 * 1024

Numbers = NDArray[np.uint64]
Rows = NDArray[np.float16]


class State(BaseModel):
    """How far the store is, kept beside what it holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gallery: Gallery
    seq: int  # of the feed: everything up to it is in here, once the snapshot is whole
    after: int | None = None  # while a snapshot is taken: the last template so far
    caught_up: bool = False  # with the changes since: only then is a snapshot the truth
    told_at: datetime  # the server's clock, when it was last heard
    seen_at: datetime  # the latest time that the box has seen since

    @property
    def whole(self) -> bool:
        return self.after is None


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """What a step changed in the store, for those who hold it in memory."""

    removed: Numbers
    numbers: Numbers  # of the templates that are new
    rows: Rows


class Store:
    """One collection's copy. Thread-safe: one writes while others read.

    Raises Unavailable when the disk takes or gives nothing, Damaged or KeyMissing when what is on
    it cannot be opened: `clear` it then, the server has everything. A single row that does not open
    is passed over and entered in `lost`: it must not cost a box that is alone all the others.
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
        """How far the store is; None: it holds nothing."""
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
        """Rows met so far that do not open, of templates and of persons."""
        return len(self._lost)

    def lost_templates(self) -> Numbers:
        """Of templates: their own row, or their person's, does not open."""
        return np.array([n for kind, n in self._lost.copy() if kind == "template"], dtype=np.uint64)

    def begin(self, head: SnapshotHead) -> None:
        """Empty the store, for a snapshot that begins."""
        self._lost = set()
        with self._transaction() as cursor:
            empty(cursor)
            self._put_state(
                cursor,
                State(
                    gallery=head.gallery, seq=head.seq, after=0, told_at=head.at, seen_at=head.at
                ),
            )
        self._forget_log()

    def extend(self, part: SnapshotPart) -> None:
        """Add a part of the snapshot, and remember how far it is."""
        state = self._known_state()
        with self._transaction() as cursor:
            self._put_persons(cursor, part.persons)
            self._put_templates(cursor, part.templates, state.gallery.dimension)
            self._put_state(cursor, state.model_copy(update={"after": part.after}))

    def complete(self) -> None:
        """The snapshot is whole."""
        state = self._known_state()
        with self._transaction() as cursor:
            self._put_state(cursor, state.model_copy(update={"after": None}))

    def apply(self, changes: FeedChanges) -> Applied:
        """Make these changes and remember their number, in one transaction."""
        before = self._known_state()
        with self._transaction() as cursor:
            removed = set(changes.removed)
            for number in changes.left:
                held = cursor.execute("SELECT number FROM template WHERE person = ?", (number,))
                removed |= {row[0] for row in held}
            owners = _owners(cursor, removed) | set(changes.left)
            cursor.executemany("DELETE FROM template WHERE number = ?", [(n,) for n in removed])
            self._put_persons(cursor, changes.persons)
            numbers, rows = self._put_templates(
                cursor, changes.templates, changes.gallery.dimension
            )
            # Somebody without templates is nobody here: the name goes with the last of them.
            owners |= {person.number for person in changes.persons}
            cursor.executemany(
                "DELETE FROM person WHERE number = ?1"
                " AND NOT EXISTS (SELECT 1 FROM template WHERE person = ?1)",
                [(number,) for number in owners],
            )
            self._put_state(
                cursor,
                State(
                    gallery=changes.gallery,
                    seq=changes.seq,
                    caught_up=before.caught_up or not changes.more,
                    told_at=changes.at,
                    seen_at=changes.at,
                ),
            )
        if removed:
            self._forget_log()
        return Applied(np.array(sorted(removed), dtype=np.uint64), numbers, rows)

    def note_time(self, seen_at: datetime) -> None:
        """Remember how late it is: a box without a clock must not take an old day for today."""
        state = self.state()
        if state is not None and seen_at > state.seen_at:
            with self._transaction() as cursor:
                self._put_state(cursor, state.model_copy(update={"seen_at": seen_at}))

    def clear(self) -> None:
        """Forget everything, also what is damaged."""
        self._lost = set()
        try:
            with self._transaction() as cursor:
                empty(cursor)
            self._forget_log()
        except Damaged:
            with self._writing, self._reading:
                self._writer.close()
                self._reader.close()
                delete_database(self._path)
                self._writer, self._reader = self._open(), self._open()

    def drop_persons(self, numbers: Sequence[int]) -> Numbers:
        """Forget persons with all of their templates; answers the numbers of these."""
        gone: list[int] = []
        with self._transaction() as cursor:
            for number in numbers:
                rows = cursor.execute("SELECT number FROM template WHERE person = ?", (number,))
                gone += [row[0] for row in rows]
                cursor.execute("DELETE FROM template WHERE person = ?", (number,))
                cursor.execute("DELETE FROM person WHERE number = ?", (number,))
        self._forget_log()
        return np.array(gone, dtype=np.uint64)

    def templates(self) -> Iterator[tuple[Numbers, Rows]]:
        """All templates, some at a time."""
        state = self._known_state()
        after = 0
        while True:
            with self._reads() as cursor:
                rows = cursor.execute(
                    "SELECT number, person, sealed FROM template WHERE number > ?"
                    " ORDER BY number LIMIT ?",
                    (after, _READ),
                ).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            yield self._opened(rows, state)

    def rows(self, numbers: Sequence[int]) -> dict[int, Rows]:
        """The templates of these numbers that are here."""
        if not numbers:
            return {}
        with self._reads() as cursor:
            found = cursor.execute(
                "SELECT number, person, sealed FROM template"
                " WHERE number IN (SELECT value FROM json_each(?))",
                (json.dumps(list(numbers)),),
            ).fetchall()
        opened, rows = self._opened(found, self._known_state())
        return dict(zip(opened.tolist(), rows, strict=True))

    def owners(self, numbers: Sequence[int]) -> dict[int, FeedPerson]:
        """Whose these templates are, by the templates' numbers."""
        with self._reads() as cursor:
            found = cursor.execute(
                "SELECT template.number, person.number, person.sealed FROM template"
                " JOIN person ON person.number = template.person"
                " WHERE template.number IN (SELECT value FROM json_each(?))",
                (json.dumps(list(numbers)),),
            ).fetchall()
        owners = {}
        for number, person, sealed in found:
            owner = self._person(person, sealed)
            if owner is None:
                self._lost.add(("template", number))
            else:
                owners[number] = owner
        return owners

    def persons(self) -> Iterator[FeedPerson]:
        """Everybody who is held."""
        after = 0
        while True:
            with self._reads() as cursor:
                rows = cursor.execute(
                    "SELECT number, sealed FROM person WHERE number > ? ORDER BY number LIMIT ?",
                    (after, _READ),
                ).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            opened = (self._person(number, sealed) for number, sealed in rows)
            yield from (one for one in opened if one is not None)

    def close(self) -> None:
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def _open(self) -> sqlite3.Connection:
        return open_database(self._path, self._max_bytes)

    def _known_state(self) -> State:
        state = self.state()
        if state is None:
            raise Damaged("the gallery holds nothing, so nothing can be added to it")
        return state

    def _put_state(self, cursor: sqlite3.Cursor, state: State) -> None:
        sealed = self._keys.seal(state.model_dump_json().encode(), self._about("state", 1))
        cursor.execute("INSERT OR REPLACE INTO state (id, sealed) VALUES (1, ?)", (sealed,))

    def _put_persons(self, cursor: sqlite3.Cursor, persons: Sequence[FeedPerson]) -> None:
        cursor.executemany(
            "INSERT OR REPLACE INTO person (number, sealed) VALUES (?, ?)",
            [
                (
                    one.number,
                    self._keys.seal(
                        one.model_dump_json().encode(), self._about("person", one.number)
                    ),
                )
                for one in persons
            ],
        )

    def _put_templates(
        self, cursor: sqlite3.Cursor, templates: FeedTemplates, dimension: int
    ) -> tuple[Numbers, Rows]:
        """Those that were not here yet."""
        rows = templates.rows(dimension)
        fresh = []
        for place, (number, person) in enumerate(
            zip(templates.numbers, templates.persons, strict=True)
        ):
            sealed = self._keys.seal(rows[place].tobytes(), self._about("template", number, person))
            cursor.execute(
                "INSERT OR IGNORE INTO template (number, person, sealed) VALUES (?, ?, ?)",
                (number, person, sealed),
            )
            if cursor.rowcount:
                fresh.append(place)
        numbers = np.array([templates.numbers[place] for place in fresh], dtype=np.uint64)
        return numbers, rows[fresh]

    def _opened(self, rows: Sequence[tuple[int, int, bytes]], state: State) -> tuple[Numbers, Rows]:
        """Numbers and templates of those rows (number, person, envelope) that open."""
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
        """The person of a row; None where it does not open."""
        try:
            plain = self._keys.open(sealed, self._about("person", number))
        except Damaged:
            self._lost.add(("person", number))
            return None
        return FeedPerson.model_validate_json(plain)

    def _about(self, kind: str, *parts: int) -> bytes:
        return about(f"gallery-{kind}", self._collection, *parts)

    def _forget_log(self) -> None:
        """Let no copy of what was erased lie in the write-ahead log, also not an encrypted one."""
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
    mend: bool = True,
) -> tuple[Store, State | None, str | None]:
    """The store at `path`, its state, and why it had to be emptied (None: it had not).

    What cannot be opened (another key, damage) is a copy that nobody can use: it is deleted.
    Without `mend` it is left as it is, and MusterError raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return _opened_store(Store(path, collection, keys, max_bytes))
    except (Damaged, KeyMissing) as error:
        why = error.message
        if not mend:
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


def _owners(cursor: sqlite3.Cursor, numbers: set[int]) -> set[int]:
    rows = cursor.execute(
        "SELECT DISTINCT person FROM template WHERE number IN (SELECT value FROM json_each(?))",
        (json.dumps(sorted(numbers)),),
    )
    return {row[0] for row in rows}
