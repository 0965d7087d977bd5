"""Vectors from elsewhere by the thousand: one transaction, few statements, the same rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import JsonValue
from sqlalchemy import func, insert, literal, select, update
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.fast_sql import insert_many
from match_server.db.tables import Change, Collection, ImportedFile, Person, PersonField, Template
from match_server.schemas.batches import BatchLine, BatchVerdict
from match_server.schemas.persons import PersonName
from match_server.services.audit.chain import Note, note
from match_server.services.change_feed import Kind, next_number
from match_server.services.encryption.vault import Cipher, Vault
from match_server.services.enrollment.persons import add_person
from match_server.services.enrollment.rows import require_generation
from match_server.services.lookups import batches, collection_named
from match_server.services.recognition.filters import field_rows
from match_server.services.recognition.template_input import stored_forms
from shared.clock import Clock
from shared.errors import Conflict, MusterError, NotFound
from shared.ids import new_ids

VectorItem = tuple[int, BatchLine]
"""One template of a batch, and its place in it."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The file that the vectors come from: how far it got is written with them."""

    sha256: bytes


class _Someone(NamedTuple):
    number: int
    name: PersonName


_Key = tuple[str, bool]
"""What a person is looked for by: an id, or (True) an id or a name."""


class _Ready(NamedTuple):  # one for each line, and a tuple is soon made
    """A template that may be written, once its person is there."""

    place: int
    line: BatchLine
    key: _Key
    vector: bytes  # little-endian float16
    template_id: str


class BulkVectors:
    """Writes many templates at once. As `add_template` does it seeks no lookalike."""

    def __init__(self, database: Database, clock: Clock, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def add(
        self, collection: str, items: Sequence[VectorItem], resume: Resume | None = None
    ) -> list[BatchVerdict]:
        """Write what can be written and answer a verdict for each, in order.

        Raises NotFound when there is no such collection.
        """
        verdicts: dict[int, BatchVerdict] = {}
        with self._database.read() as session:
            owner = collection_named(session, collection)
        readable = _readable(owner, items, verdicts)  # nobody waits for us meanwhile
        now = self._clock.now()
        with self._database.write() as session:
            free = _room(session, owner)
            persons = _Persons(session, owner, now)
            ready = persons.settle(readable, free, verdicts)
            cipher = self._vault.cipher(session, owner)
            first_seq = _write(session, owner, ready, persons, now, cipher)
            if resume is not None:
                _note(session, owner, resume, items[-1][0] + 1)
        for seq, one in enumerate(ready, start=first_seq):
            verdicts[one.place] = _accepted(one, persons.of(one.key).name, seq)
        return [verdicts[place] for place, _ in items]

    def lines_done(self, collection: str, resume: Resume) -> int:
        """How many lines of this file were imported before."""
        with self._database.read() as session:
            owner = collection_named(session, collection)
            row = session.get(ImportedFile, (owner.number, resume.sha256))
            return 0 if row is None else row.lines


class _Persons:
    """Whose the templates of one batch are: found in few queries, the new ones made together."""

    def __init__(self, session: Session, owner: Collection, now: datetime) -> None:
        self._session = session
        self._owner = owner
        self._now = now
        self._by_key: dict[_Key, _Someone | Conflict] = {}

    def of(self, key: _Key) -> _Someone:
        """The person of a template that is `settle`d."""
        found = self._by_key[key]
        if not isinstance(found, _Someone):
            raise RuntimeError("a template without a person was to be written")
        return found

    def settle(
        self, readable: Sequence[_Ready], free: int, refused: dict[int, BatchVerdict]
    ) -> list[_Ready]:
        """Those templates that have a person and room; persons who are missing are made."""
        self._find({one.key for one in readable})
        ready: list[_Ready] = []
        fresh: dict[_Key, BatchLine] = {}
        for one in readable:
            try:
                if len(ready) >= free:
                    raise Conflict(
                        f"collection {self._owner.name!r} is full: it may hold "
                        f"{self._owner.max_templates} templates"
                    )
                known = self._by_key.get(one.key)
                if isinstance(known, Conflict):
                    raise known
                if known is None and one.key not in fresh:
                    line = one.line
                    if line.person or line.external_id or line.groups:  # could contradict others
                        person, _ = add_person(
                            self._session, self._owner, line.new_person(), self._now
                        )
                        self._by_key[one.key] = _someone(person.number, person.id, person.name)
                    else:
                        fresh[one.key] = line
            except MusterError as error:
                refused[one.place] = refusal(one.place, one.line.file, error)
            else:
                ready.append(one)
        if fresh:
            self._make(fresh)
        return ready

    def _find(self, keys: Iterable[_Key]) -> None:
        columns = select(Person.number, Person.id, Person.name).where(
            Person.collection_number == self._owner.number
        )
        texts = sorted({text for text, _ in keys})
        for some in batches(sorted({text for text, named in keys if named})):
            for row in self._session.execute(columns.where(Person.name.in_(some))):
                several = (row.name, True) in self._by_key
                self._by_key[row.name, True] = (
                    Conflict(
                        f"several persons are named {row.name!r}: give the id of the one that is "
                        "meant as `person`"
                    )
                    if several
                    else _someone(row.number, row.id, row.name)
                )
        for some in batches(texts):
            for row in self._session.execute(columns.where(Person.id.in_(some))):
                someone = _someone(row.number, row.id, row.name)
                self._by_key[row.id, True] = self._by_key[row.id, False] = someone

    def _make(self, fresh: dict[_Key, BatchLine]) -> None:
        """New persons with no more than a name, metadata and an expiry, all at once."""
        session, owner = self._session, self._owner
        last = session.scalar(select(func.max(Person.number))) or 0
        ids = new_ids(len(fresh))
        columns = ["id", "name", "metadata", "expires_at"]
        rows = (
            (new_id, new.name, new.metadata, new.expires_at)
            for new_id, new in zip(ids, fresh.values(), strict=True)
        )
        same = {"collection_number": owner.number, "created_at": self._now}
        _insert(session, Person, columns, rows, same)
        _tell(session, owner, "person_created", Person, last, len(fresh), self._now)
        made = select(Person.number).where(Person.number > last).order_by(Person.number)
        numbers = session.scalars(made).all()
        fields = []
        for number, new_id, (key, new) in zip(numbers, ids, fresh.items(), strict=True):
            self._by_key[key] = _someone(number, new_id, new.name or "")
            fields += field_rows(number, new.metadata)
        if fields:
            values = (tuple(row.values()) for row in fields)
            _insert(session, PersonField, list(fields[0]), values, {})
        session.execute(
            update(Collection)
            .where(Collection.number == owner.number)
            .values(person_count=Collection.person_count + len(fresh))
        )


def _someone(number: int, person_id: str, name: str) -> _Someone:
    return _Someone(number, PersonName(id=person_id, name=name))


def _readable(
    owner: Collection, items: Sequence[VectorItem], refused: dict[int, BatchVerdict]
) -> list[_Ready]:
    given = [(line.template, line.model_id) for _, line in items]
    readable = []
    ids = new_ids(len(items))
    for (place, line), stored, new_id in zip(items, stored_forms(given, owner), ids, strict=True):
        if isinstance(stored, MusterError):
            refused[place] = refusal(place, line.file, stored)
        else:
            key = line.key, line.person is None
            readable.append(_Ready(place, line, key, stored, new_id))
    return readable


def _room(session: Session, owner: Collection) -> int:
    """Templates that the collection can still take; its row is locked until the end.

    Raises ModelMismatch when its model has just been changed, NotFound when it was erased.
    """
    row = session.execute(
        select(Collection.template_count, Collection.max_templates)
        .where(Collection.number == owner.number)
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound(f"collection {owner.name!r} has just been erased")
    require_generation(session, owner)
    limit = 2**62 if row.max_templates is None else row.max_templates
    return max(int(limit - row.template_count), 0)


def _write(
    session: Session,
    owner: Collection,
    ready: Sequence[_Ready],
    persons: _Persons,
    now: datetime,
    cipher: Cipher,
) -> int:
    """Insert the templates and their lines of the feed; answers the number of the first line."""
    if not ready:
        return 0
    last = session.scalar(select(func.max(Template.number))) or 0
    columns = ["id", "person_number", "vector"]
    templates = (
        (
            one.template_id,
            persons.of(one.key).number,
            cipher.seal_vector(one.template_id, owner.model_id, one.vector),
        )
        for one in ready
    )
    same = {
        "collection_number": owner.number,
        "model_id": owner.model_id,
        "data_key": cipher.data_key,
        "created_at": now,
    }
    _insert(session, Template, columns, templates, same)
    first_seq = _tell(session, owner, "template_added", Template, last, len(ready), now)
    session.execute(
        update(Collection)
        .where(Collection.number == owner.number)
        .values(template_count=Collection.template_count + len(ready))
    )
    return first_seq


def _tell(
    session: Session,
    owner: Collection,
    kind: Kind,
    table: type[Person | Template],
    last: int,
    count: int,
    now: datetime,
) -> int:
    """Lines of the feed for the rows numbered above `last`, in their order; answers the first's.

    There is one writer at a time, so those rows are its own. One audit entry is for all: the feed
    has their ids from that number on.
    """
    first_seq = next_number(session, "changes", count) - count + 1
    place = func.row_number().over(order_by=table.number)
    numbered = literal(None, Change.template_number.type) if table is Person else Template.number
    lines = select(
        place + (first_seq - 1),
        literal(owner.number),
        literal(kind),
        table.id,
        numbered,
        literal(now, Change.at.type),
    ).where(table.number > last)
    columns = ["seq", "collection_number", "kind", "subject", "template_number", "at"]
    told: Any = session.execute(
        insert(Change).from_select(columns, lines), execution_options={"preserve_rowcount": True}
    )
    if told.rowcount != count:
        raise RuntimeError(f"{told.rowcount} rows are new where {count} were written")
    details: dict[str, JsonValue] = {"first_seq": first_seq, "count": count}
    action = "persons_created" if table is Person else "templates_added"
    note(session, Note(action, now, collection_number=owner.number, details=details))
    return first_seq


def _insert(
    session: Session,
    table: type[Any],
    columns: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
    same: dict[str, Any],
) -> None:
    """Plain rows, past the unit of work: nobody asks for them as objects afterwards."""
    insert_many(session.connection(), table.__table__, columns, rows, same)


def _note(session: Session, owner: Collection, resume: Resume, lines: int) -> None:
    row = session.get(ImportedFile, (owner.number, resume.sha256))
    if row is None:
        row = ImportedFile(collection_number=owner.number, sha256=resume.sha256, lines=0)
        session.add(row)
    row.lines = max(row.lines, lines)


def _accepted(one: _Ready, person: PersonName, seq: int) -> BatchVerdict:
    return BatchVerdict(
        index=one.place,
        file=one.line.file,
        status="accepted",
        person=person,
        template_id=one.template_id,
        seq=seq,
    )


def refusal(index: int, file: str | None, error: MusterError) -> BatchVerdict:
    """The verdict on what could not be enrolled."""
    return BatchVerdict(
        index=index,
        file=file,
        status="refused",
        code=error.code,
        message=error.message,
        details=error.details,
    )
