"""Deleting the beginning of the audit log, so that what is left still verifies.

The chain then begins after the last entry that went (`audit_start`). That this was done, and up to
where, is itself an entry in what is left: a beginning that somebody else cut off has none. Of the
certificates of erasure whose entries went, that entry keeps one hash over all.
"""

from datetime import datetime, timedelta

from pydantic import JsonValue
from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import AuditEntry, AuditStart, Erasure
from match_server.services.audit.chain import Note, canonical, note, sha256_hex
from match_server.services.audit.reader import ISSUED, PRUNED, digest_of
from shared.clock import Clock

_AT_ONCE = 2000  # entries deleted in one transaction


class AuditRetention:
    """Deletes entries that are older than the settings allow."""

    def __init__(self, database: Database, clock: Clock, days: float) -> None:
        """`days`: how long entries are kept; 0: for good."""
        self._database = database
        self._clock = clock
        self._days = days

    def run(self) -> int:
        """How many entries went."""
        if not self._days:
            return 0
        self._move_start(self._clock.now() - timedelta(days=self._days))
        gone = 0
        while deleted := self._delete_some():  # also what a process left that died at this
            gone += deleted
        return gone

    def _move_start(self, before: datetime) -> None:
        """Let the chain begin with the first entry that is not older, and tell the chain so."""
        with self._database.read() as session:
            if _last_before(session, before) is None:
                return
        with self._database.write() as session:
            last = _last_before(session, before)
            if last is None:
                return
            start = session.get_one(AuditStart, 1, with_for_update=True)
            start.number, start.hash = last.number, last.hash
            certificates = _untold(session, last.number)
            details: dict[str, JsonValue] = {
                "number": last.number,
                "hash": last.hash.hex(),
                "certificates": len(certificates),
                "certificates_sha256": digest_of(certificates),
            }
            note(session, Note(PRUNED, self._clock.now(), details=details))

    def _delete_some(self) -> int:
        with self._database.read() as session:
            if not session.scalars(_deletable().limit(1)).all():
                return 0
        with self._database.write() as session:
            numbers = session.scalars(_deletable().limit(_AT_ONCE)).all()
            session.execute(delete(AuditEntry).where(AuditEntry.number <= max(numbers, default=0)))
            return len(numbers)


def _deletable() -> Select[int]:
    start = select(AuditStart.number).where(AuditStart.id == 1).scalar_subquery()
    return select(AuditEntry.number).where(AuditEntry.number <= start).order_by(AuditEntry.number)


def _last_before(session: Session, before: datetime) -> AuditEntry | None:
    """The last entry that is to go: all up to it are older, whatever clocks did in between."""
    start = session.get_one(AuditStart, 1).number
    young = select(func.min(AuditEntry.number)).where(
        AuditEntry.number > start, AuditEntry.at >= before
    )
    first_kept = session.scalar(young)
    old = select(AuditEntry).where(AuditEntry.number > start)
    if first_kept is not None:
        old = old.where(AuditEntry.number < first_kept)
    return session.scalars(old.order_by(AuditEntry.number.desc()).limit(1)).one_or_none()


def _untold(session: Session, start: int) -> dict[str, str]:
    """The certificates that no entry after `start` speaks of, by id, with the hash of each."""
    told = select(AuditEntry.subject).where(AuditEntry.action == ISSUED, AuditEntry.number > start)
    found = session.execute(select(Erasure.id, Erasure.certificate).where(Erasure.id.not_in(told)))
    return {erasure_id: sha256_hex(canonical(document)) for erasure_id, document in found}
