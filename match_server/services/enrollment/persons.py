"""Persons: created, listed and changed."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from match_server.db.database import Database
from match_server.db.tables import Collection, Group, Image, Membership, Person, Template
from match_server.db.text_search import contains
from match_server.schemas.base import Page
from match_server.schemas.persons import (
    PersonCreate,
    PersonPatch,
    PersonQuery,
    PersonView,
    PersonWritten,
)
from match_server.services.change_feed import record
from match_server.services.enrollment.groups import group_ids, set_groups
from match_server.services.lookups import (
    collection_named,
    count_of,
    groups_of,
    is_expired,
    person_named,
)
from match_server.services.paging import page_of
from match_server.services.recognition.filters import fits, keep_fields
from match_server.services.storage.files import FileStore
from shared.clock import Clock
from shared.errors import Conflict
from shared.ids import new_id


class Persons:
    """The persons of all collections."""

    def __init__(self, database: Database, files: FileStore, clock: Clock) -> None:
        self._database = database
        self._files = files
        self._clock = clock

    def create(self, name: str, request: PersonCreate) -> PersonWritten:
        """A new person. Conflict when the id or the external id is taken in the collection."""
        now = self._clock.now()
        with self._database.write() as session:
            collection = collection_named(session, name)
            person, seq = add_person(session, collection, request, now)
            return PersonWritten(seq=seq, **dict(self._view(session, person)))

    def page(self, collection_name: str, query: PersonQuery) -> Page[PersonView]:
        """Persons in the order of their enrollment, filtered by the query."""
        with self._database.read() as session:
            collection = collection_named(session, collection_name)
            statement = select(Person).where(Person.collection_number == collection.number)
            if query.q is not None:
                statement = statement.where(contains(Person.name, query.q))
            if query.external_id is not None:
                statement = statement.where(Person.external_id == query.external_id)
            if query.group is not None:
                (group,) = groups_of(session, [query.group], collection)
                statement = statement.where(Person.number.in_(_members(group)))
            if query.expired is not None:
                gone = Person.expires_at.is_not(None) & (Person.expires_at <= self._clock.now())
                statement = statement.where(gone if query.expired else ~gone)
            for condition in query.filter:
                statement = statement.where(fits(condition))
            views = partial(self._views, session)
            return page_of(session, statement, query, Person.number, views=views)

    def get(self, name: str, person_id: str) -> PersonView:
        with self._database.read() as session:
            collection = collection_named(session, name)
            return self._view(session, person_named(session, collection, person_id))

    def change(self, collection_name: str, person_id: str, patch: PersonPatch) -> PersonWritten:
        """Change the fields of the patch."""
        with self._database.write() as session:
            collection = collection_named(session, collection_name)
            person = person_named(session, collection, person_id)
            if patch.name is not None:
                person.name = patch.name
            if "external_id" in patch.model_fields_set and patch.external_id != person.external_id:
                if patch.external_id is not None:
                    is_taken = Person.external_id == patch.external_id
                    _require_free(session, collection, is_taken, "a person with this external id")
                person.external_id = patch.external_id
            if patch.metadata is not None:
                person.meta = dict(patch.metadata)
                keep_fields(session, person)
            if "expires_at" in patch.model_fields_set:
                person.expires_at = patch.expires_at
            if patch.groups is not None:
                set_groups(session, person, groups_of(session, patch.groups, collection))
            session.flush()
            now = self._clock.now()
            fields: dict[str, JsonValue] = {"fields": [*sorted(patch.model_fields_set)]}
            seq = record(
                session, collection.number, "person_updated", person.id, now, details=fields
            )
            return PersonWritten(seq=seq, **dict(self._view(session, person)))

    def _view(self, session: Session, person: Person) -> PersonView:
        (view,) = self._views(session, [person])
        return view

    def _views(self, session: Session, persons: Sequence[Person]) -> list[PersonView]:
        numbers = [person.number for person in persons]
        images = _counts(session, Image.person_number, numbers)
        templates = _counts(session, Template.person_number, numbers)
        groups = group_ids(session, numbers)
        now = self._clock.now()
        return [
            PersonView(
                id=person.id,
                name=person.name,
                external_id=person.external_id,
                metadata=person.meta,
                groups=groups.get(person.number, []),
                expires_at=person.expires_at,
                expired=is_expired(person.expires_at, now),
                images=images.get(person.number, 0),
                templates=templates.get(person.number, 0),
                created_at=person.created_at,
            )
            for person in persons
        ]


def add_person(
    session: Session, collection: Collection, request: PersonCreate, now: datetime
) -> tuple[Person, int]:
    """A new person in a collection, and the number of its line in the feed. Raises Conflict."""
    person = Person(
        id=request.id or new_id(),
        collection_number=collection.number,
        name=request.name,
        external_id=request.external_id,
        meta=dict(request.metadata),
        expires_at=request.expires_at,
        created_at=now,
    )
    _require_free(session, collection, Person.id == person.id, f"a person {person.id!r}")
    if person.external_id is not None:
        taken = Person.external_id == person.external_id
        _require_free(session, collection, taken, "a person with this external id")
    groups = groups_of(session, request.groups, collection)
    session.add(person)
    collection.person_count = Collection.person_count + 1
    session.flush()
    set_groups(session, person, groups)
    keep_fields(session, person)
    return person, record(session, collection.number, "person_created", person.id, now)


def _members(group: Group) -> Select[int]:
    return select(Membership.person_number).where(Membership.group_number == group.number)


def _counts(
    session: Session, collection: InstrumentedAttribute[int], numbers: Sequence[int]
) -> dict[int, int]:
    """How many rows each of these persons has."""
    counted = select(collection, func.count()).where(collection.in_(numbers)).group_by(collection)
    return {row[0]: row[1] for row in session.execute(counted)}


def _require_free(
    session: Session, collection: Collection, which: ColumnElement[bool], what: str
) -> None:
    taken = select(func.count()).where(Person.collection_number == collection.number, which)
    if count_of(session, taken):
        raise Conflict(f"there is already {what} in collection {collection.name!r}")
