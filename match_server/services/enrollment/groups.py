"""Groups: sets of persons of one collection; a person may be in many."""

from collections.abc import Iterable, Sequence
from functools import partial

from pydantic import JsonValue
from sqlalchemy import ColumnElement, delete, func, insert, select
from sqlalchemy.orm import Session, contains_eager

from match_server.db.database import Database
from match_server.db.tables import Collection, Group, Membership, Person
from match_server.db.text_search import contains
from match_server.schemas.base import Page
from match_server.schemas.groups import (
    GroupCreate,
    GroupErased,
    GroupPatch,
    GroupQuery,
    GroupView,
    GroupWritten,
    MembersPut,
    MembersWritten,
)
from match_server.services.change_feed import record, record_all
from match_server.services.lookups import batches, collection_named, count_of, group_named
from match_server.services.paging import page_of
from shared.clock import Clock
from shared.errors import Conflict, NotFound
from shared.ids import new_id


class Groups:
    """Creates, reads, changes and erases groups, and their members."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def create(self, request: GroupCreate) -> GroupWritten:
        """A new, empty group. Conflict when its id or its name is taken."""
        now = self._clock.now()
        with self._database.write() as session:
            collection = collection_named(session, request.collection)
            row = Group(
                id=request.id or new_id(),
                collection_number=collection.number,
                collection=collection,
                name=request.name,
                meta=dict(request.metadata),
                created_at=now,
            )
            _require_free(session, Group.id == row.id, f"a group {row.id!r}")
            _require_name_free(session, collection, row.name)
            session.add(row)
            session.flush()
            seq = record(session, collection.number, "group_created", row.id, now)
            return GroupWritten(seq=seq, **dict(_view(session, row)))

    def page(self, query: GroupQuery) -> Page[GroupView]:
        """Groups by collection and name."""
        statement = select(Group).join(Group.collection).options(contains_eager(Group.collection))
        with self._database.read() as session:
            if query.collection is not None:
                collection = collection_named(session, query.collection)
                statement = statement.where(Group.collection_number == collection.number)
            if query.q is not None:
                statement = statement.where(contains(Group.name, query.q))
            if query.person is not None:
                members = select(Membership.group_number).join(
                    Person, Person.number == Membership.person_number
                )
                statement = statement.where(
                    Group.number.in_(members.where(Person.id == query.person))
                )
            by_name = Collection.name, Group.name, Group.number
            views = partial(_views, session)
            return page_of(session, statement, query, *by_name, views=views)

    def get(self, group_id: str) -> GroupView:
        with self._database.read() as session:
            return _view(session, group_named(session, group_id))

    def change(self, group_id: str, patch: GroupPatch) -> GroupWritten:
        """Change the fields of the patch."""
        with self._database.write() as session:
            row = group_named(session, group_id)
            if patch.name is not None and patch.name != row.name:
                _require_name_free(session, row.collection, patch.name)
                row.name = patch.name
            if patch.metadata is not None:
                row.meta = dict(patch.metadata)
            now = self._clock.now()
            seq = record(session, row.collection_number, "group_updated", row.id, now)
            session.flush()
            return GroupWritten(seq=seq, **dict(_view(session, row)))

    def erase(self, group_id: str) -> GroupErased:
        """Erase a group; its persons stay."""
        with self._database.write() as session:
            row = group_named(session, group_id)
            members = select(Membership.person_number).where(Membership.group_number == row.number)
            persons = session.scalars(select(Person.id).where(Person.number.in_(members))).all()
            session.execute(delete(Group).where(Group.number == row.number))
            now = self._clock.now()
            record_all(session, row.collection_number, "person_updated", persons, now)
            seq = record(session, row.collection_number, "group_erased", row.id, now)
            return GroupErased(seq=seq, group=row.id, persons=len(persons))

    def put_persons(self, group_id: str, request: MembersPut) -> MembersWritten:
        """Add and remove persons in one step. NotFound names a person that the collection lacks."""
        with self._database.write() as session:
            row = group_named(session, group_id)
            joining = _numbers(session, row.collection, request.add)
            for person_id in request.add:
                if person_id not in joining:
                    raise NotFound(
                        f"there is no person {person_id!r} in collection {row.collection.name!r}"
                    )
            leaving = _numbers(session, row.collection, request.remove)
            added = join_group(session, row, joining.values())
            removed = _leave_group(session, row, leaving.values())
            now = self._clock.now()
            # Followers of this group alone need each added and removed person.
            touched = sorted({**joining, **leaving})
            record_all(session, row.collection_number, "person_updated", touched, now)
            moved: dict[str, JsonValue] = {"added": [*request.add], "removed": [*request.remove]}
            seq = record(
                session, row.collection_number, "group_updated", row.id, now, details=moved
            )
            view = _view(session, row)
            return MembersWritten(seq=seq, added=added, removed=removed, **dict(view))


def join_group(session: Session, group: Group, person_numbers: Iterable[int]) -> int:
    """Add persons of the group's collection; returns how many were not in it before."""
    joined = 0
    for numbers in batches(sorted(person_numbers)):
        inside = set(
            session.scalars(
                select(Membership.person_number).where(
                    Membership.group_number == group.number,
                    Membership.person_number.in_(numbers),
                )
            )
        )
        new = [
            {"group_number": group.number, "person_number": number}
            for number in numbers
            if number not in inside
        ]
        if new:
            session.execute(insert(Membership), new)
        joined += len(new)
    return joined


def set_groups(session: Session, person: Person, groups: Sequence[Group]) -> None:
    """Make these the groups of a person."""
    session.execute(delete(Membership).where(Membership.person_number == person.number))
    for group in groups:
        join_group(session, group, [person.number])


def group_ids(session: Session, person_numbers: Sequence[int]) -> dict[int, list[str]]:
    """The ids of each person's groups, in order of their creation."""
    ids: dict[int, list[str]] = {}
    for numbers in batches(sorted(person_numbers)):
        rows = session.execute(
            select(Membership.person_number, Group.id)
            .join(Group, Group.number == Membership.group_number)
            .where(Membership.person_number.in_(numbers))
            .order_by(Group.number)
        )
        for number, group_id in rows:
            ids.setdefault(number, []).append(group_id)
    return ids


def _leave_group(session: Session, group: Group, person_numbers: Iterable[int]) -> int:
    left = 0
    for numbers in batches(sorted(person_numbers)):
        gone = session.execute(
            delete(Membership)
            .where(Membership.group_number == group.number, Membership.person_number.in_(numbers))
            .returning(Membership.person_number)
        )
        left += len(gone.all())
    return left


def _numbers(session: Session, collection: Collection, person_ids: Sequence[str]) -> dict[str, int]:
    """The numbers of the persons that exist, by id."""
    numbers: dict[str, int] = {}
    for ids in batches(sorted(set(person_ids))):
        rows = session.execute(
            select(Person.id, Person.number).where(
                Person.collection_number == collection.number, Person.id.in_(ids)
            )
        )
        numbers.update((row.id, row.number) for row in rows)
    return numbers


def _view(session: Session, row: Group) -> GroupView:
    (view,) = _views(session, [row])
    return view


def _views(session: Session, rows: Sequence[Group]) -> list[GroupView]:
    sizes = _sizes(session, rows)
    return [
        GroupView(
            id=row.id,
            collection=row.collection.name,
            name=row.name,
            metadata=row.meta,
            persons=sizes[row.number],
            created_at=row.created_at,
        )
        for row in rows
    ]


def _sizes(session: Session, rows: Sequence[Group]) -> dict[int, int]:
    """How many persons are in each group."""
    sizes = {row.number: 0 for row in rows}
    for numbers in batches(sorted(sizes)):
        counted = (
            select(Membership.group_number, func.count())
            .where(Membership.group_number.in_(numbers))
            .group_by(Membership.group_number)
        )
        sizes.update((row[0], row[1]) for row in session.execute(counted))
    return sizes


def _require_name_free(session: Session, collection: Collection, name: str) -> None:
    which = (Group.collection_number == collection.number) & (Group.name == name)
    _require_free(session, which, f"a group named {name!r} in collection {collection.name!r}")


def _require_free(session: Session, which: ColumnElement[bool], what: str) -> None:
    if count_of(session, select(func.count()).select_from(Group).where(which)):
        raise Conflict(f"there is already {what}")
