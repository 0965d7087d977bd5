"""Writing the change feed. Each change is an entry of the audit log as well."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, cast

from pydantic import JsonValue
from sqlalchemy import Table as SqlTable
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from match_server.db.database import Reader
from match_server.db.tables import Change, Counter
from match_server.services.audit.chain import Note, note

Kind = Literal[
    "collection_created",
    "collection_updated",
    "model_changed",  # followers of the collection have to take a new snapshot
    "collection_erased",
    "gallery_granted",
    "gallery_withdrawn",
    "group_created",
    "group_updated",
    "group_erased",
    "person_created",
    "person_updated",
    "person_erased",
    "template_added",
    "template_removed",
    "storage_created",
    "storage_removed",
]


def next_number(session: Session, counter: Literal["changes", "events"], count: int = 1) -> int:
    """The next number of a counter, or the last of the next `count` numbers.

    The counter is locked until this transaction ends.
    """
    numbers = {"counter": counter, "count": count}
    return int(session.connection().execute(_NEXT, numbers).scalar_one())


# Of the table: an update through the mapped class costs many times as much.
_COUNTERS = cast(SqlTable, Counter.__table__)
_NEXT = (
    update(_COUNTERS)
    .where(_COUNTERS.c.name == bindparam("counter"))
    .values(value=_COUNTERS.c.value + bindparam("count"))
    .returning(_COUNTERS.c.value)
)
_POSITION = select(Counter.value).where(Counter.name == bindparam("counter"))


def position(reader: Reader, counter: Literal["changes", "events"] = "changes") -> int:
    """The last number of a counter: as a session sees it, or of the database as it is now."""
    ((number,),) = reader.execute(_POSITION, {"counter": counter})
    return int(number)


def record(
    session: Session,
    collection_number: int,
    kind: Kind,
    subject: str,
    at: datetime,
    *,
    template_number: int | None = None,
    person: str | None = None,
    details: Mapping[str, JsonValue] | None = None,
) -> int:
    """Append a change to the feed, in the transaction of the change. Returns its number.

    `person` (an id) and `details` are only for the audit log.
    """
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
    about = subject if kind.startswith("person_") else person
    note(session, Note(kind, at, subject, about, collection_number or None, details or {}))
    return seq


def record_all(
    session: Session, collection_number: int, kind: Kind, subjects: Sequence[str], at: datetime
) -> None:
    """As `record`, for several subjects in one statement. Writes nothing to the audit log."""
    if not subjects:
        return
    first = next_number(session, "changes", len(subjects)) - len(subjects) + 1
    session.execute(
        insert(Change),
        [
            {
                "seq": first + place,
                "collection_number": collection_number,
                "kind": kind,
                "subject": subject,
                "at": at,
            }
            for place, subject in enumerate(subjects)
        ],
    )
