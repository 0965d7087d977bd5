"""Rows by the names that clients know them by; NotFound where there is none."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from match_server.schemas.base import Paging
from match_server.tables import Collection, Person
from shared.errors import NotFound

Row = TypeVar("Row")


def collection_named(session: Session, name: str) -> Collection:
    """The collection of that name."""
    found = session.scalars(select(Collection).where(Collection.name == name)).one_or_none()
    if found is None:
        raise NotFound(f"there is no collection {name!r}")
    return found


def person_named(session: Session, collection: Collection, person_id: str) -> Person:
    """The person of that id in a collection."""
    found = session.scalars(
        select(Person).where(Person.collection_number == collection.number, Person.id == person_id)
    ).one_or_none()
    if found is None:
        raise NotFound(f"there is no person {person_id!r} in collection {collection.name!r}")
    return found


def page_of(session: Session, query: Select[Row], paging: Paging) -> tuple[Sequence[Row], int]:
    """The rows of one page, and how many the query has in all."""
    total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery()))
    rows = session.scalars(query.offset(paging.offset).limit(paging.size)).all()
    return rows, int(total or 0)


def is_expired(expires_at: datetime | None, now: datetime) -> bool:
    """Whether a person with this expiry is none any more."""
    return expires_at is not None and expires_at <= now


def one_number(session: Session, query: Select[Any]) -> int:
    """The single number that a counting query answers."""
    return int(session.scalar(query) or 0)
