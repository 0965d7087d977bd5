"""Vectors from elsewhere by the hundred: one transaction, few statements, the same rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from match_server.database import Database
from match_server.prepared import insert_many
from match_server.schemas.batches import BatchLine, BatchVerdict
from match_server.schemas.persons import PersonName
from match_server.services.law.chain import Note, note
from match_server.services.lookup import batches, collection_named
from match_server.services.people.adding import require_generation
from match_server.services.people.persons import add_person
from match_server.services.people.selection import field_rows
from match_server.services.searches.vectors import stored_forms
from match_server.services.storing.vault import Cipher, Vault
from match_server.tables import (
    Change,
    Collection,
    Counter,
    ImportedFile,
    Person,
    PersonField,
    Template,
)
from shared.clock import Clock
from shared.errors import Conflict, MusterError
from shared.ids import new_ids


@dataclass(frozen=True, slots=True)
class VectorItem:
    """One template of a batch."""

    index: int
    file: str | None
    line: BatchLine


@dataclass(frozen=True, slots=True)
class Resume:
    """The file that the vectors come from: how far it got is written with them."""

    sha256: bytes


@dataclass(frozen=True, slots=True)
class _Someone:
    number: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class _Ready:
    """A template that may be written, once its person is there."""

    item: VectorItem
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
        refused: dict[int, BatchVerdict] = {}
        with self._database.write() as session:
            owner = collection_named(session, collection)
            now = self._clock.now()
            free = _room(session, owner)
            readable = _readable(owner, items, refused)
            persons = _Persons(session, owner, now)
            ready = persons.settle(readable, free, refused)
            cipher = self._vault.cipher(session, owner)
            first_seq = _write(session, owner, ready, persons, now, cipher)
            if resume is not None:
                _note(session, owner, resume, items[-1].index + 1)
        accepted = {
            one.item.index: _accepted(one, persons.of(one.item.line), first_seq + place)
            for place, one in enumerate(ready)
        }
        return [accepted.get(item.index) or refused[item.index] for item in items]

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
        self._by_key: dict[tuple[str, bool], _Someone | Conflict] = {}

    def of(self, line: BatchLine) -> _Someone:
        """The person of a template that is `settle`d."""
        found = self._by_key[_key(line)]
        if not isinstance(found, _Someone):
            raise RuntimeError("a template without a person was to be written")
        return found

    def settle(
        self, readable: Iterable[_Ready], free: int, refused: dict[int, BatchVerdict]
    ) -> list[_Ready]:
        """Those templates that have a person and room; persons who are missing are made."""
        readable = list(readable)
        self._find([one.item.line for one in readable])
        ready: list[_Ready] = []
        fresh: dict[tuple[str, bool], BatchLine] = {}
        for one in readable:
            line, key = one.item.line, _key(one.item.line)
            try:
                if len(ready) >= free:
                    raise Conflict(
                        f"collection {self._owner.name!r} is full: it may hold "
                        f"{self._owner.max_templates} templates"
                    )
                known = self._by_key.get(key)
                if isinstance(known, Conflict):
                    raise known
                if known is None and key not in fresh:
                    if line.person or line.external_id or line.groups:  # could contradict others
                        person, _ = add_person(
                            self._session, self._owner, line.new_person(), self._now
                        )
                        self._by_key[key] = _Someone(person.number, person.id, person.name)
                    else:
                        fresh[key] = line
            except MusterError as error:
                refused[one.item.index] = _refusal(one.item, error)
            else:
                ready.append(one)
        if fresh:
            self._make(fresh)
        return ready

    def _find(self, lines: Sequence[BatchLine]) -> None:
        columns = select(Person.number, Person.id, Person.name).where(
            Person.collection_number == self._owner.number
        )
        names = sorted({line.key for line in lines if line.person is None})
        for some in batches(names):
            for row in self._session.execute(columns.where(Person.name.in_(some))):
                several = (row.name, True) in self._by_key
                self._by_key[row.name, True] = (
                    Conflict(
                        f"several persons are named {row.name!r}: give the id of the one that is "
                        "meant as `person`"
                    )
                    if several
                    else _Someone(row.number, row.id, row.name)
                )
        for some in batches(sorted({line.key for line in lines})):
            for row in self._session.execute(columns.where(Person.id.in_(some))):
                someone = _Someone(row.number, row.id, row.name)
                self._by_key[row.id, True] = self._by_key[row.id, False] = someone

    def _make(self, fresh: dict[tuple[str, bool], BatchLine]) -> None:
        """New persons with no more than a name, metadata and an expiry, all at once."""
        session, owner = self._session, self._owner
        first_seq = _numbers(session, len(fresh))
        last = session.scalar(select(func.max(Person.number))) or 0
        ids = dict(zip(fresh, new_ids(len(fresh)), strict=True))
        columns = ["id", "name", "metadata", "expires_at"]
        rows = ((ids[key], new.name, new.metadata, new.expires_at) for key, new in fresh.items())
        same = {"collection_number": owner.number, "created_at": self._now}
        _insert(session, Person, columns, rows, same)
        made = session.execute(select(Person.id, Person.number).where(Person.number > last))
        numbers = {row.id: row.number for row in made}
        for key, new in fresh.items():
            self._by_key[key] = _Someone(numbers[ids[key]], ids[key], new.name or "")
        fields = [
            row
            for key, new in fresh.items()
            if new.metadata
            for row in field_rows(numbers[ids[key]], new.metadata)
        ]
        if fields:
            values = (tuple(row.values()) for row in fields)
            _insert(session, PersonField, list(fields[0]), values, {})
        changes = enumerate(ids.values(), start=first_seq)
        same = {"collection_number": owner.number, "kind": "person_created", "at": self._now}
        _insert(session, Change, ["seq", "subject"], changes, same)
        _audit(session, owner, "persons_created", first_seq, len(fresh), self._now)
        session.execute(
            update(Collection)
            .where(Collection.number == owner.number)
            .values(person_count=Collection.person_count + len(fresh))
        )


def _key(line: BatchLine) -> tuple[str, bool]:
    """What the person is looked for by: an id, or (True) an id or a name."""
    return line.key, line.person is None


def _readable(
    owner: Collection, items: Sequence[VectorItem], refused: dict[int, BatchVerdict]
) -> list[_Ready]:
    given = [(item.line.template, item.line.model_id) for item in items]
    readable = []
    ids = new_ids(len(items))
    for item, stored, new_id in zip(items, stored_forms(given, owner), ids, strict=True):
        if isinstance(stored, MusterError):
            refused[item.index] = _refusal(item, stored)
        else:
            readable.append(_Ready(item, stored, new_id))
    return readable


def _room(session: Session, owner: Collection) -> int:
    """Templates that the collection can still take; its row is locked until the end.

    Raises ModelMismatch when its model has just been changed.
    """
    row = session.execute(
        select(Collection.template_count, Collection.max_templates)
        .where(Collection.number == owner.number)
        .with_for_update()
    ).one()
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
    """Insert the templates and their lines of the feed; answers the number of the first line.

    The counter is taken first: whoever else adds templates waits for it, so that those above
    `last` which this transaction can see are its own.
    """
    if not ready:
        return 0
    first_seq = _numbers(session, len(ready))
    last = session.scalar(select(func.max(Template.number))) or 0
    columns = ["id", "person_number", "vector"]
    templates = (
        (
            one.template_id,
            persons.of(one.item.line).number,
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
    made = session.execute(select(Template.id, Template.number).where(Template.number > last))
    numbers = {row.id: row.number for row in made}
    columns = ["seq", "subject", "template_number"]
    changes = (
        (seq, one.template_id, numbers[one.template_id])
        for seq, one in enumerate(ready, start=first_seq)
    )
    same = {"collection_number": owner.number, "kind": "template_added", "at": now}
    _insert(session, Change, columns, changes, same)
    _audit(session, owner, "templates_added", first_seq, len(ready), now)
    session.execute(
        update(Collection)
        .where(Collection.number == owner.number)
        .values(template_count=Collection.template_count + len(ready))
    )
    return first_seq


def _numbers(session: Session, count: int) -> int:
    """The first of so many numbers of the change feed, all for this transaction."""
    last = session.scalar(
        update(Counter)
        .where(Counter.name == "changes")
        .values(value=Counter.value + count)
        .returning(Counter.value)
    )
    if last is None:
        raise RuntimeError("the counter of the change feed is missing")
    return int(last) - count + 1


def _insert(
    session: Session,
    table: type[Any],
    columns: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
    same: dict[str, Any],
) -> None:
    """Plain rows, past the unit of work: nobody asks for them as objects afterwards."""
    insert_many(session.connection(), table.__table__, columns, rows, same)


def _audit(
    session: Session, owner: Collection, action: str, first_seq: int, count: int, now: datetime
) -> None:
    """One entry for all; the change feed has their ids from this number on."""
    details: dict[str, JsonValue] = {"first_seq": first_seq, "count": count}
    note(session, Note(action, now, collection_number=owner.number, details=details))


def _note(session: Session, owner: Collection, resume: Resume, lines: int) -> None:
    row = session.get(ImportedFile, (owner.number, resume.sha256))
    if row is None:
        row = ImportedFile(collection_number=owner.number, sha256=resume.sha256, lines=0)
        session.add(row)
    row.lines = max(row.lines, lines)


def _accepted(one: _Ready, person: _Someone, seq: int) -> BatchVerdict:
    return BatchVerdict(
        index=one.item.index,
        file=one.item.file,
        status="accepted",
        person=PersonName(id=person.id, name=person.name),
        template_id=one.template_id,
        seq=seq,
    )


def _refusal(item: VectorItem, error: MusterError) -> BatchVerdict:
    return BatchVerdict(
        index=item.index,
        file=item.file,
        status="refused",
        code=error.code,
        message=error.message,
        details=error.details,
    )
