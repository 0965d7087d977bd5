"""Certificates of erasures: issuing them, and showing them to clients."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.db.tables import AuditEntry, Collection, Erasure
from match_server.schemas.audit import (
    Anchor,
    Certificate,
    DeclaredBackup,
    ErasedThings,
    ErasureView,
    Waiting,
)
from match_server.services.audit.chain import (
    ISSUED,
    Note,
    canonical,
    current_actor,
    note,
    sha256_hex,
)
from match_server.services.revision import FeedPosition
from shared.ids import new_id

LIMITS = [
    "This server cannot erase exports, responses that clients keep, or events that were delivered "
    "to webhooks or over MQTT.",
    "Deleted files are not overwritten: their bytes may stay on the disk until it uses the space "
    "again.",
]
LIMITS_POSTGRESQL = [
    "PostgreSQL keeps deleted rows in its files until VACUUM and reuse of the space, and in its "
    "write-ahead log and the archive of that log.",
]


def backups_until(backups: Mapping[str, float], now: datetime) -> list[DeclaredBackup]:
    """The declared backups (the days that each is kept, by name) that may still hold the person."""
    return [
        DeclaredBackup(name=name, until=now + timedelta(days=days))
        for name, days in sorted(backups.items())
    ]


def issue(
    session: Session,
    collection: Collection,
    person_id: str,
    erased: ErasedThings,
    *,
    feed: FeedPosition,
    files: list[str],
    backups: list[DeclaredBackup],
    limits: list[str],
    now: datetime,
) -> str:
    """Issue the certificate of an erasure. Returns its id."""
    actor = current_actor()
    certificate = Certificate(
        id=new_id(),
        at=now,
        actor=actor.who,
        role=actor.role,
        request_id=actor.request_id,
        person=person_id,
        collection_number=collection.number,
        seq=feed.seq,
        epoch=feed.epoch,
        removed=erased,
        backups=backups,
        limits=limits,
    )
    document = certificate.model_dump(mode="json")
    row = Erasure(
        id=certificate.id,
        person=person_id,
        collection_number=collection.number,
        at=now,
        change_seq=feed.seq,
        certificate=document,
        files=files,
        waiting=[],
    )
    session.add(row)
    digest = sha256_hex(canonical(document))
    details: dict[str, JsonValue] = {"sha256": digest, "seq": feed.seq, "epoch": feed.epoch}
    note(session, Note(ISSUED, now, row.id, person_id, collection.number, details))
    return row.id


def views_of(session: Session, rows: Sequence[Erasure]) -> list[ErasureView]:
    """The certificates as clients see them."""
    issued = select(AuditEntry).where(
        AuditEntry.action == ISSUED, AuditEntry.subject.in_([row.id for row in rows])
    )
    entries = {entry.subject: entry for entry in session.scalars(issued)}
    return [_view(row, entries.get(row.id)) for row in rows]


def _view(row: Erasure, entry: AuditEntry | None) -> ErasureView:
    return ErasureView(
        state="pending" if row.completed_at is None else "complete",
        completed_at=row.completed_at,
        waiting=[Waiting.model_validate(item) for item in row.waiting],
        certificate=Certificate.model_validate(row.certificate),
        sha256=sha256_hex(canonical(row.certificate)),
        audit=None if entry is None else Anchor(number=entry.number, hash=entry.hash.hex()),
    )
