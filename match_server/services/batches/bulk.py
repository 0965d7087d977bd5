"""Writes thousands of templates from other systems in one transaction with few statements."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, cast

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Insert, bindparam, func, insert, null, select, update
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.fast_sql import insert_many
from match_server.db.tables import Change, Collection, ImportedFile, Person, PersonField, Template
from match_server.schemas.batches import (
    AcceptedTemplate,
    BatchLine,
    BatchVerdict,
    TemplateLine,
    Verdict,
)
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

VectorItem = tuple[int, BatchLine | TemplateLine]
"""A template of a batch, and its index in the batch."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The file that the templates come from; the number of read lines is stored with them."""

    sha256: bytes


class _PersonRow(NamedTuple):
    number: int
    name: PersonName
    name_json: str


_Key = tuple[str, bool]
"""The key of a person: an id, or with True an id or a name."""


class _Ready(NamedTuple):  # one for each line, and a tuple is soon made
    """A template that can be written when its person exists."""

    position: int  # in the batch
    line: BatchLine | TemplateLine
    key: _Key
    vector: bytes  # little-endian float16
    template_id: str


class BulkVectors:
    """Writes many templates at once, without a check of lookalikes, as `add_template` does."""

    def __init__(self, database: Database, clock: Clock, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def add(
        self, collection_name: str, items: Sequence[VectorItem], resume: Resume | None = None
    ) -> list[Verdict]:
        """Write the valid templates, and return a verdict for each item in order.

        Raises NotFound when there is no such collection.
        """
        verdicts: dict[int, Verdict] = {}
        with self._database.read() as session:
            collection = collection_named(session, collection_name)
        readable = _readable(collection, items, verdicts)  # before the write lock
        now = self._clock.now()
        with self._database.write() as session:
            free = _free_templates(session, collection)
            persons = _Persons(session, collection, now)
            ready = persons.settle(readable, free, verdicts)
            cipher = self._vault.cipher(session, collection)
            rows = persons.of(ready)
            first_seq = _write(session, collection, ready, rows, now, cipher)
            if resume is not None:
                _note(session, collection, resume, items[-1][0] + 1)
        for seq, (template, person) in enumerate(zip(ready, rows, strict=True), start=first_seq):
            verdicts[template.position] = AcceptedTemplate(
                template.position,
                template.line.file,
                person.name,
                person.name_json,
                template.template_id,
                seq,
            )
        return [verdicts[index] for index, _ in items]

    def lines_done(self, name: str, resume: Resume) -> int:
        """How many lines of this file were imported before."""
        with self._database.read() as session:
            collection = collection_named(session, name)
            row = session.get(ImportedFile, (collection.number, resume.sha256))
            return 0 if row is None else row.lines


class _Persons:
    """The persons of one batch: looked up in few queries, new persons created together."""

    def __init__(self, session: Session, collection: Collection, now: datetime) -> None:
        self._session = session
        self._collection = collection
        self._now = now
        self._by_key: dict[_Key, _PersonRow | Conflict] = {}

    def of(self, ready: Sequence[_Ready]) -> list[_PersonRow]:
        """The persons of templates that `settle` has returned, in the same order."""
        persons = cast(dict[_Key, _PersonRow], self._by_key)  # conflicts are not ready
        return [persons[template.key] for template in ready]

    def settle(
        self, readable: Sequence[_Ready], free: int, refused: dict[int, Verdict]
    ) -> list[_Ready]:
        """The templates that can be written; missing persons are created."""
        self._find({template.key for template in readable})
        ready: list[_Ready] = []
        fresh: dict[_Key, BatchLine | TemplateLine] = {}
        for template in readable:
            try:
                if len(ready) >= free:
                    raise Conflict(
                        f"collection {self._collection.name!r} is full: it may hold "
                        f"{self._collection.max_templates} templates"
                    )
                known = self._by_key.get(template.key)
                if isinstance(known, Conflict):
                    raise known
                if known is None and template.key not in fresh:
                    line = template.line
                    if isinstance(line, BatchLine) and (
                        line.person or line.external_id or line.groups
                    ):  # could conflict with others
                        person, _ = add_person(
                            self._session, self._collection, line.new_person(), self._now
                        )
                        self._by_key[template.key] = _person_row(
                            person.number, person.id, person.name
                        )
                    else:
                        fresh[template.key] = line
            except MusterError as error:
                refused[template.position] = refusal(template.position, template.line.file, error)
            else:
                ready.append(template)
        if fresh:
            self._make(fresh)
        return ready

    def _find(self, keys: Iterable[_Key]) -> None:
        columns = select(Person.number, Person.id, Person.name).where(
            Person.collection_number == self._collection.number
        )
        texts = sorted({text for text, _ in keys})
        for portion in batches(sorted({text for text, named in keys if named})):
            for row in self._session.execute(columns.where(Person.name.in_(portion))):
                several = (row.name, True) in self._by_key
                self._by_key[row.name, True] = (
                    Conflict(
                        f"several persons are named {row.name!r}: give the id of the one that is "
                        "meant as `person`"
                    )
                    if several
                    else _person_row(row.number, row.id, row.name)
                )
        for portion in batches(texts):
            for row in self._session.execute(columns.where(Person.id.in_(portion))):
                person = _person_row(row.number, row.id, row.name)
                self._by_key[row.id, True] = self._by_key[row.id, False] = person

    def _make(self, fresh: dict[_Key, BatchLine | TemplateLine]) -> None:
        """Create persons who have only a name, metadata and an expiry, all at once."""
        session, collection = self._session, self._collection
        last = session.scalar(select(func.max(Person.number))) or 0
        ids = new_ids(len(fresh))
        columns = ["id", "name", "metadata", "expires_at"]
        rows = (
            (new_id, new.name, new.metadata, new.expires_at)
            for new_id, new in zip(ids, fresh.values(), strict=True)
        )
        same = {"collection_number": collection.number, "created_at": self._now}
        _insert(session, Person, columns, rows, same)
        _record(session, collection, "person_created", Person, last, len(fresh), self._now)
        made = select(Person.number).where(Person.number > last).order_by(Person.number)
        numbers = session.scalars(made).all()
        fields = []
        for number, new_id, (key, new) in zip(numbers, ids, fresh.items(), strict=True):
            self._by_key[key] = _person_row(number, new_id, new.name or "")
            fields += field_rows(number, new.metadata)
        if fields:
            values = (tuple(row.values()) for row in fields)
            _insert(session, PersonField, list(fields[0]), values, {})
        session.execute(
            update(Collection)
            .where(Collection.number == collection.number)
            .values(person_count=Collection.person_count + len(fresh))
        )


def _person_row(number: int, person_id: str, name: str) -> _PersonRow:
    person = PersonName(id=person_id, name=name)
    return _PersonRow(number, person, person.model_dump_json())


def _readable(
    collection: Collection, items: Sequence[VectorItem], refused: dict[int, Verdict]
) -> list[_Ready]:
    vectors = [(line.template, line.model_id) for _, line in items]
    readable = []
    ids = new_ids(len(items))
    for (index, line), stored, new_id in zip(
        items, stored_forms(vectors, collection), ids, strict=True
    ):
        if isinstance(stored, MusterError):
            refused[index] = refusal(index, line.file, stored)
        else:
            key = line.key, line.person is None
            readable.append(_Ready(index, line, key, stored, new_id))
    return readable


def _free_templates(session: Session, collection: Collection) -> int:
    """How many more templates the collection can take; its row stays locked until the end.

    Raises ModelMismatch when its model has just been changed, NotFound when it was erased.
    """
    row = session.execute(
        select(Collection.template_count, Collection.max_templates)
        .where(Collection.number == collection.number)
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound(f"collection {collection.name!r} has just been erased")
    require_generation(session, collection)
    limit = 2**62 if row.max_templates is None else row.max_templates
    return max(int(limit - row.template_count), 0)


def _write(
    session: Session,
    collection: Collection,
    ready: Sequence[_Ready],
    persons: Sequence[_PersonRow],
    now: datetime,
    cipher: Cipher,
) -> int:
    """Insert the templates and their changes, and return the number of the first change."""
    if not ready:
        return 0
    last = session.scalar(select(func.max(Template.number))) or 0
    columns = ["id", "person_number", "vector", "vector_hash"]
    ids = [template.template_id for template in ready]
    vectors = [template.vector for template in ready]
    sealed = cipher.seal_vectors(collection.model_id, ids, vectors)
    hashes = cipher.hash_vectors(collection.model_id, ids, vectors)
    templates = zip(ids, [person.number for person in persons], sealed, hashes, strict=True)
    same = {
        "collection_number": collection.number,
        "model_id": collection.model_id,
        "data_key": cipher.data_key,
        "created_at": now,
    }
    _insert(session, Template, columns, templates, same)
    first_seq = _record(session, collection, "template_added", Template, last, len(ready), now)
    session.execute(
        update(Collection)
        .where(Collection.number == collection.number)
        .values(template_count=Collection.template_count + len(ready))
    )
    return first_seq


def _record(
    session: Session,
    collection: Collection,
    kind: Kind,
    table: type[Person | Template],
    last: int,
    count: int,
    now: datetime,
) -> int:
    """Insert changes for the rows numbered above `last`, and return the first change's number.

    There is one writer at a time, so those rows are its own. One audit entry is for all of them:
    the feed has their ids from that number on.
    """
    first_seq = next_number(session, "changes", count) - count + 1
    values = {
        "before": first_seq - 1,
        "collection": collection.number,
        "kind": kind,
        "at": now,
        "last": last,
    }
    inserted = session.connection().execute(
        _ADD_PERSONS if table is Person else _ADD_TEMPLATES,
        values,
        execution_options={"preserve_rowcount": True},
    )
    if inserted.rowcount != count:
        raise RuntimeError(f"{inserted.rowcount} rows are new where {count} were written")
    details: dict[str, JsonValue] = {"first_seq": first_seq, "count": count}
    action = "persons_created" if table is Person else "templates_added"
    note(session, Note(action, now, collection_number=collection.number, details=details))
    return first_seq


def _insert(
    session: Session,
    table: type[Any],
    columns: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
    same: dict[str, Any],
) -> None:
    """Insert plain rows without ORM objects, because no object is needed afterwards."""
    insert_many(session.connection(), table.__table__, columns, rows, same)


def _note(session: Session, collection: Collection, resume: Resume, lines: int) -> None:
    row = session.get(ImportedFile, (collection.number, resume.sha256))
    if row is None:
        row = ImportedFile(collection_number=collection.number, sha256=resume.sha256, lines=0)
        session.add(row)
    row.lines = max(row.lines, lines)


def refusal(index: int, file: str | None, error: MusterError) -> BatchVerdict:
    """The verdict on an item that could not be enrolled."""
    return BatchVerdict(
        index=index,
        file=file,
        status="refused",
        code=error.code,
        message=error.message,
        details=error.details,
    )


def _add_changes(rows: SqlTable, template_number: ColumnElement[Any]) -> Insert:
    """The statement that inserts a change for each row numbered above `last`."""
    place = func.row_number().over(order_by=rows.c.number)
    lines = select(
        place + bindparam("before", type_=_CHANGES.c.seq.type),
        bindparam("collection", type_=_CHANGES.c.collection_number.type),
        bindparam("kind", type_=_CHANGES.c.kind.type),
        rows.c.id,
        template_number,
        bindparam("at", type_=_CHANGES.c.at.type),
    ).where(rows.c.number > bindparam("last"))
    columns = ["seq", "collection_number", "kind", "subject", "template_number", "at"]
    return insert(_CHANGES).from_select(columns, lines)


# Of the tables, and made once: with the mapped classes these statements cost many times as much.
_CHANGES = cast(SqlTable, Change.__table__)
_PERSONS, _TEMPLATES = cast(SqlTable, Person.__table__), cast(SqlTable, Template.__table__)
_ADD_PERSONS = _add_changes(_PERSONS, null())
_ADD_TEMPLATES = _add_changes(_TEMPLATES, _TEMPLATES.c.number)
