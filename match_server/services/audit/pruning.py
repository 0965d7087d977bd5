"""Deleting old entries of the audit log, so that the rest can still be verified.

The chain then begins after the last deleted entry (`audit_start`). An entry in the rest says so and
names that last entry: if another program cuts off the beginning, there is no such entry. It also
holds one hash over all certificates of erasure whose entries were deleted.
"""

from datetime import datetime, timedelta

from pydantic import JsonValue
from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import AuditEntry, AuditStart, Erasure
from match_server.services.audit.chain import ISSUED, PRUNED, Note, canonical, note, sha256_hex
from match_server.services.audit.verification import digest_of
from shared.clock import Clock

_AT_ONCE = 2000  # entries deleted in one transaction


class AuditRetention:
    """Deletes entries that are older than the settings allow."""

    def __init__(self, database: Database, clock: Clock, days: float) -> None:
        """Entries older than `days` are deleted; 0: none."""
        self._database = database
        self._clock = clock
        self._days = days

    def run(self) -> int:
        """Delete old entries. Returns their number."""
        if not self._days:
            return 0
        self._move_start(self._clock.now() - timedelta(days=self._days))
        total = 0
        while deleted := self._delete_some():  # also entries that a killed process left
            total += deleted
        return total

    def _move_start(self, before: datetime) -> None:
        """Let the chain begin with the first newer entry, and write an entry about that."""
        with self._database.read() as session:
            if _last_before(session, before) is None:
                return
        with self._database.write() as session:
            last = _last_before(session, before)
            if last is None:
                return
            start = session.get_one(AuditStart, 1, with_for_update=True)
            start.number, start.hash = last.number, last.hash
            certificates = _older_certificates(session, last.number)
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
    """The last entry to delete: all up to it are older, also where a clock went backwards."""
    start = session.get_one(AuditStart, 1).number
    young = select(func.min(AuditEntry.number)).where(
        AuditEntry.number > start, AuditEntry.at >= before
    )
    first_kept = session.scalar(young)
    old = select(AuditEntry).where(AuditEntry.number > start)
    if first_kept is not None:
        old = old.where(AuditEntry.number < first_kept)
    return session.scalars(old.order_by(AuditEntry.number.desc()).limit(1)).one_or_none()


def _older_certificates(session: Session, start: int) -> dict[str, str]:
    """The hashes of the certificates that no entry after `start` names, by id."""
    named = select(AuditEntry.subject).where(AuditEntry.action == ISSUED, AuditEntry.number > start)
    rows = session.execute(select(Erasure.id, Erasure.certificate).where(Erasure.id.not_in(named)))
    return {erasure_id: sha256_hex(canonical(document)) for erasure_id, document in rows}
