"""The audit chain, as it is written: who acts, what is noted, and how it is chained.

An entry is written in the transaction of what it tells, so there is neither one without the other.
The chain's head is locked last, for the time of the commit alone; whoever takes numbers of the
change feed takes them before, so nobody waits in a circle.
"""

import hashlib
import json
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from pydantic import JsonValue
from sqlalchemy import Table as SqlTable
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from match_server.db.tables import AuditEntry, AuditHead

FIRST_HASH = bytes(32)
"""What the first entry follows."""

_MAX_SUBJECT = 200
_NOTES = "audit notes"  # in Session.info


@dataclass(frozen=True, slots=True)
class Note:
    """What an entry tells besides who acted. Ids and counts: never a name, nothing biometric."""

    action: str
    at: datetime
    subject: str | None = None
    person: str | None = None
    collection_number: int | None = None
    details: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(slots=True)
class Actor:
    """On whose behalf this thread writes.

    `call`, `subject` and `person` are what is noted of a transaction that notes nothing by itself;
    once for an actor, as a request may need several. Without `call` such a one is not noted.
    """

    who: str = "server"
    role: str | None = None
    request_id: str | None = None
    call: str | None = None
    subject: str | None = None
    person: str | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))  # when `call` was made
    noted: bool = False  # whether anything has been


_ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


def act_as(actor: Actor) -> None:
    """From now on this thread (or task) writes on behalf of `actor`."""
    _ACTOR.set(actor)


def current_actor() -> Actor:
    """On whose behalf this thread writes; the server's own where nobody was named."""
    return _ACTOR.get() or Actor()


def note(session: Session, entry: Note) -> None:
    """Let the audit log tell this, in this transaction."""
    session.info.setdefault(_NOTES, []).append(entry)


def append_notes(session: Session) -> None:
    """Append the notes of this transaction to the chain: the last step of every database write."""
    if not session.in_transaction():  # it was rolled back, and its notes with it
        return
    actor = current_actor()
    notes: list[Note] = session.info.get(_NOTES, [])
    if not notes and actor.call is not None and not actor.noted:
        notes = [Note(actor.call, actor.at, actor.subject, actor.person)]
    if not notes:
        return
    session.flush()
    connection = session.connection()
    number, before = connection.execute(_LOCK_HEAD).one()
    rows: list[dict[str, Any]] = []
    for one in notes:
        number += 1
        row = _row(number, one, actor)
        row["hash"] = before = entry_hash(row, before)
        rows.append(row)
    connection.execute(_APPEND, rows)
    connection.execute(_MOVE_HEAD, {"to_number": number, "to_hash": before})
    actor.noted = True


def entry_hash(row: Mapping[str, Any], before: bytes) -> bytes:
    """SHA-256 over the hash of the entry before and this one's content as canonical JSON."""
    content = [
        row["number"],
        row["at"].astimezone(UTC).isoformat(timespec="microseconds"),
        row["actor"],
        row["role"],
        row["action"],
        row["collection_number"],
        row["subject"],
        row["person"],
        row["details"],
        row["request_id"],
    ]
    return hashlib.sha256(before + canonical(content)).digest()


def canonical(value: JsonValue | list[Any]) -> bytes:
    """The one way in which a value is written as JSON before it is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256_hex(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _row(number: int, one: Note, actor: Actor) -> dict[str, Any]:
    return {
        "number": number,
        "at": one.at,
        "actor": actor.who,
        "role": actor.role,
        "action": one.action,
        "collection_number": one.collection_number,
        "subject": None if one.subject is None else one.subject[:_MAX_SUBJECT],
        "person": one.person,
        "details": dict(one.details),
        "request_id": actor.request_id,
    }


# Of the bare tables: through the mapped classes they cost many times as much.
_HEAD = cast(SqlTable, AuditHead.__table__)
_LOCK_HEAD = select(_HEAD.c.number, _HEAD.c.hash).where(_HEAD.c.id == 1).with_for_update()
_APPEND = insert(cast(SqlTable, AuditEntry.__table__))
_MOVE_HEAD = (
    update(_HEAD)
    .where(_HEAD.c.id == 1)
    .values(number=bindparam("to_number"), hash=bindparam("to_hash"))
)
