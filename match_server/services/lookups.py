"""Looks up rows by the names that clients use; raises NotFound."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, contains_eager

from match_server.db.tables import Collection, Group, Person, Storage
from match_server.services.collection_ref import CollectionRef
from shared.errors import NotFound

Row = TypeVar("Row")
Item = TypeVar("Item")

VARIABLES = 500  # values in one IN (...), below every database's limit


def collection_named(session: Session, name: str) -> Collection:
    """The collection of that name."""
    row = session.scalars(select(Collection).where(Collection.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"there is no collection {name!r}")
    return row


def numbers_of(collection: str) -> Select[int]:
    """A subquery for the number of the collection of this name."""
    return select(Collection.number).where(Collection.name == collection)


def person_named(
    session: Session, collection: Collection | CollectionRef, person_id: str
) -> Person:
    """The person of that id in a collection."""
    row = session.scalars(
        select(Person).where(Person.collection_number == collection.number, Person.id == person_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no person {person_id!r} in collection {collection.name!r}")
    return row


def group_named(session: Session, group_id: str) -> Group:
    """The group of that id, with its collection."""
    row = session.scalars(
        select(Group)
        .join(Group.collection)
        .options(contains_eager(Group.collection))
        .where(Group.id == group_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no group {group_id!r}")
    return row


def groups_of(
    session: Session, group_ids: Sequence[str], *collections: Collection | CollectionRef
) -> list[Group]:
    """The groups of these ids, all in these collections. NotFound names the first missing one."""
    by_id = {
        group.id: group
        for group in session.scalars(
            select(Group).where(
                Group.collection_number.in_([collection.number for collection in collections]),
                Group.id.in_(group_ids),
            )
        )
    }
    for group_id in group_ids:
        if group_id not in by_id:
            names = ", ".join(repr(collection.name) for collection in collections)
            raise NotFound(f"there is no group {group_id!r} in {names}")
    return [by_id[group_id] for group_id in dict.fromkeys(group_ids)]


def storage_named(session: Session, name: str) -> Storage:
    """The storage of that name."""
    row = session.scalars(select(Storage).where(Storage.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"there is no storage {name!r}")
    return row


def batches(items: Sequence[Item], size: int = VARIABLES) -> Iterator[Sequence[Item]]:
    """The items in batches, each small enough for one IN (...)."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def is_expired(expires_at: datetime | None, now: datetime) -> bool:
    """Whether a person with this expiry has expired."""
    return expires_at is not None and expires_at <= now


def count_of(session: Session, query: Select[Any]) -> int:
    """The number that a counting query returns."""
    return int(session.scalar(query) or 0)
