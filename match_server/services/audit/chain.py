"""Writing the audit log: the actor, the notes of a transaction, and the chain of hashes.

An entry is written in the transaction that it describes, so neither exists without the other. The
row with the head of the chain is locked last, only for the commit. The counter of the change feed
is always locked before it, so transactions cannot deadlock.
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
"""The hash before the first entry."""

ISSUED = "certificate_issued"
"""The entry with the hash of a certificate of erasure; its subject is the certificate's id."""

PRUNED = "audit_pruned"
"""The entry of a deletion of old entries."""

_MAX_SUBJECT = 200
_NOTES = "audit notes"  # in Session.info


@dataclass(frozen=True, slots=True)
class Note:
    """The content of an entry without the actor. Ids and counts: no names, nothing biometric."""

    action: str
    at: datetime
    subject: str | None = None
    person: str | None = None
    collection_number: int | None = None
    details: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(slots=True)
class Actor:
    """The key, command or server on whose behalf this thread writes.

    A transaction without notes gets one of `call`, `subject` and `person`: the first transaction of
    an actor, because a request may need several. Without `call` it gets none.
    """

    who: str = "server"
    role: str | None = None
    request_id: str | None = None
    call: str | None = None
    subject: str | None = None
    person: str | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))  # time of `call`
    noted: bool = False  # whether this actor has an entry


_ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


def act_as(actor: Actor) -> None:
    """Set the actor of this thread or task."""
    _ACTOR.set(actor)


def current_actor() -> Actor:
    """The actor of this thread; the server itself if none was set."""
    return _ACTOR.get() or Actor()


def note(session: Session, entry: Note) -> None:
    """Add an entry to the audit log at the end of this transaction."""
    session.info.setdefault(_NOTES, []).append(entry)


def append_notes(session: Session) -> None:
    """Append the notes of this transaction to the chain: the last step of every database write."""
    if not session.in_transaction():  # it was rolled back together with its notes
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
    for entry in notes:
        number += 1
        row = _row(number, entry, actor)
        row["hash"] = before = entry_hash(row, before)
        rows.append(row)
    connection.execute(_APPEND, rows)
    connection.execute(_MOVE_HEAD, {"to_number": number, "to_hash": before})
    actor.noted = True


def entry_hash(row: Mapping[str, Any], before: bytes) -> bytes:
    """SHA-256 over the hash of the previous entry and the content of this one as canonical JSON."""
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
    """The JSON of a value that is hashed: the same bytes for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256_hex(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _row(number: int, entry: Note, actor: Actor) -> dict[str, Any]:
    return {
        "number": number,
        "at": entry.at,
        "actor": actor.who,
        "role": actor.role,
        "action": entry.action,
        "collection_number": entry.collection_number,
        "subject": None if entry.subject is None else entry.subject[:_MAX_SUBJECT],
        "person": entry.person,
        "details": dict(entry.details),
        "request_id": actor.request_id,
    }


# Of the tables: with the mapped classes these statements cost many times as much.
_HEAD = cast(SqlTable, AuditHead.__table__)
_LOCK_HEAD = select(_HEAD.c.number, _HEAD.c.hash).where(_HEAD.c.id == 1).with_for_update()
_APPEND = insert(cast(SqlTable, AuditEntry.__table__))
_MOVE_HEAD = (
    update(_HEAD)
    .where(_HEAD.c.id == 1)
    .values(number=bindparam("to_number"), hash=bindparam("to_hash"))
)
