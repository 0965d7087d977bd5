"""Writing the change feed."""

from datetime import datetime
from typing import Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from match_server.tables import Change, Counter

Kind = Literal[
    "collection_created",
    "collection_updated",
    "collection_erased",
    "group_created",
    "group_updated",
    "group_erased",
    "person_created",
    "person_updated",
    "person_erased",
    "template_added",
    "template_removed",
]


def next_number(session: Session, counter: Literal["changes", "events"]) -> int:
    """The next number of a counter; others who want one wait until this transaction ends."""
    return session.execute(
        update(Counter)
        .where(Counter.name == counter)
        .values(value=Counter.value + 1)
        .returning(Counter.value)
    ).scalar_one()


def position(session: Session, counter: Literal["changes", "events"] = "changes") -> int:
    """The last number of a counter that this session can see."""
    return session.scalars(select(Counter.value).where(Counter.name == counter)).one()


def record(
    session: Session,
    collection_number: int,
    kind: Kind,
    subject: str,
    at: datetime,
    *,
    template_number: int | None = None,
) -> int:
    """Append one line to the feed in the transaction of the change itself; answers its number."""
    seq = next_number(session, "changes")
    session.add(
        Change(
            seq=seq,
            collection_number=collection_number,
            kind=kind,
            subject=subject,
            template_number=template_number,
            at=at,
        )
    )
    return seq
