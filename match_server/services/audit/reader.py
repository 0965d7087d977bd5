"""Reading the audit log."""

import logging

from sqlalchemy import ColumnElement, select

from match_server.db.database import Database
from match_server.db.tables import AuditEntry, Collection
from match_server.schemas.audit import Anchor, AuditEntryView, AuditQuery, AuditVerified
from match_server.schemas.base import Page
from match_server.services.audit.verification import head_of, verified
from match_server.services.lookups import numbers_of
from match_server.services.paging import page_of_rows
from shared.errors import MalformedInput

log = logging.getLogger(__name__)


class Audit:
    """Reading and verifying the audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, query: AuditQuery) -> Page[AuditEntryView]:
        """Entries, newest first."""
        entries = (
            select(AuditEntry, Collection.name)
            .outerjoin(Collection, Collection.number == AuditEntry.collection_number)
            .where(*_conditions(query))
        )
        with self._database.read() as session:
            newest_first = AuditEntry.number.desc()
            return page_of_rows(
                session,
                entries,
                query,
                newest_first,
                views=lambda rows: [_view(row, collection) for row, collection, _ in rows],
            )

    def head(self) -> Anchor:
        """The last entry of the chain."""
        with self._database.read() as session:
            return head_of(session)

    def log_anchor(self) -> None:
        """Write the end of the chain to the log, which is often kept on another machine."""
        head = self.head()
        log.info("Anchor of the audit log", extra={"number": head.number, "hash": head.hash})

    def verify(self, anchor: Anchor | None = None) -> AuditVerified:
        """Compute the chain again from its first entry, and compare it with an anchor.

        After retention deleted the beginning, an entry names the last deleted entry and the
        certificates of erasure before it. Raises Conflict for an anchor of a deleted entry.

        A person who can write to the database can also compute the whole chain again, or cut off
        its end: only an anchor that is kept elsewhere shows that.
        """
        with self._database.read() as session:
            return verified(session, anchor)


def anchor_of(text: str) -> Anchor:
    """Parse an anchor as `audit anchor` prints it. Raises MalformedInput."""
    number, colon, digest = text.strip().partition(":")
    if not (colon and number.isdecimal() and number.isascii() and len(number) < 19):
        raise MalformedInput("an anchor is NUMBER:HASH, as `match-server audit anchor` prints it")
    try:
        return Anchor(number=int(number), hash=digest)
    except ValueError:
        raise MalformedInput("the hash of an anchor has 64 hexadecimal digits") from None


def _conditions(query: AuditQuery) -> list[ColumnElement[bool]]:
    equal = {
        AuditEntry.actor: query.actor,
        AuditEntry.action: query.action,
        AuditEntry.subject: query.subject,
        AuditEntry.person: query.person,
        AuditEntry.request_id: query.request_id,
    }
    conditions = [column == value for column, value in equal.items() if value is not None]
    if query.collection is not None:
        # Entries of reads have no number, but the name of the collection as their subject.
        reads = AuditEntry.collection_number.is_(None) & (AuditEntry.subject == query.collection)
        writes = AuditEntry.collection_number.in_(numbers_of(query.collection))
        conditions.append(writes | reads)
    if query.since is not None:
        conditions.append(AuditEntry.at >= query.since)
    if query.until is not None:
        conditions.append(AuditEntry.at < query.until)
    return conditions


def _view(row: AuditEntry, collection: str | None) -> AuditEntryView:
    return AuditEntryView(
        number=row.number,
        at=row.at,
        actor=row.actor,
        role=row.role,
        action=row.action,
        collection=collection,
        subject=row.subject,
        person=row.person,
        details=row.details,
        request_id=row.request_id,
        hash=row.hash.hex(),
    )
