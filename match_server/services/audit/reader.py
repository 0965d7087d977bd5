"""The audit log as it is read: paged, and verified link by link."""

import logging
from collections.abc import Iterator, Mapping

from sqlalchemy import ColumnElement, Row, func, select
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import AuditEntry, AuditHead, AuditStart, Collection, Erasure
from match_server.schemas.audit import Anchor, AuditEntryView, AuditQuery, AuditVerified
from match_server.schemas.base import Page
from match_server.services.audit.chain import FIRST_HASH, canonical, entry_hash, sha256_hex
from match_server.services.lookups import count_of, numbers_of
from match_server.services.paging import page_of_rows
from shared.errors import Conflict, MalformedInput

log = logging.getLogger(__name__)

ISSUED = "certificate_issued"
"""The entry that holds the hash of a certificate; its subject is the certificate's id."""

PRUNED = "audit_pruned"
"""The entry of a deletion of the log's beginning."""

_CHUNK = 5000  # entries in memory at a time


class _Broken(Exception):
    """The first entry that is wrong, and how."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(problem)
        self.number = number
        self.problem = problem


class Audit:
    """Reading and verifying the audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, query: AuditQuery) -> Page[AuditEntryView]:
        """Entries, newest first."""
        wanted = (
            select(AuditEntry, Collection.name)
            .outerjoin(Collection, Collection.number == AuditEntry.collection_number)
            .where(*_conditions(query))
        )
        with self._database.read() as session:
            newest_first = AuditEntry.number.desc()
            return page_of_rows(
                session,
                wanted,
                query,
                newest_first,
                views=lambda rows: [_view(row, collection) for row, collection, _ in rows],
            )

    def head(self) -> Anchor:
        """Where the chain ends."""
        with self._database.read() as session:
            return _head(session)

    def show_anchor(self) -> None:
        """Let the log, which often leaves this machine, say where the chain ends."""
        head = self.head()
        log.info("audit log", extra={"number": head.number, "hash": head.hash})

    def verify(self, anchor: Anchor | None = None) -> AuditVerified:
        """Recompute the chain from its first entry; with an anchor, compare it with that as well.

        Where retention has deleted the beginning, the chain follows the entry of that deletion:
        it names the last one that went, and what certificates of erasure were told before it.
        Raises Conflict for an anchor of an entry that was deleted: nothing is left to compare.

        Somebody who can write to the database can compute the whole chain anew, or cut off its
        end: only an anchor that was kept elsewhere shows that.
        """
        with self._database.read() as session:
            start, head = _start(session), _head(session)
            if anchor is not None and anchor.number < start.number:
                raise Conflict(
                    f"entry {anchor.number} was deleted by retention: the oldest that can be "
                    f"compared is {start.number}",
                    oldest=start.number,
                )
            number, certificates, broken = start.number, 0, None
            try:
                number = _walk(session, start, head, anchor)
                _require_told(session, start)
                certificates = _compare_certificates(session)
            except _Broken as found:
                broken = found
        return AuditVerified(
            entries=max(0, (number if broken is None else broken.number - 1) - start.number),
            start=start,
            certificates=certificates,
            head=head,
            broken_at=None if broken is None else broken.number,
            problem=None if broken is None else broken.problem,
        )


def anchor_of(text: str) -> Anchor:
    """An anchor as `audit anchor` prints it. Raises MalformedInput."""
    number, colon, digest = text.strip().partition(":")
    if not (colon and number.isdecimal() and number.isascii() and len(number) < 19):
        raise MalformedInput("an anchor is NUMBER:HASH, as `match-server audit anchor` prints it")
    try:
        return Anchor(number=int(number), hash=digest)
    except ValueError:
        raise MalformedInput("the hash of an anchor has 64 hexadecimal digits") from None


def _walk(session: Session, start: Anchor, head: Anchor, anchor: Anchor | None) -> int:
    """The last number, when every link fits the one before and the head fits the last."""
    last, before = start.number, bytes.fromhex(start.hash)
    if anchor is not None and anchor.number == last and anchor.hash != start.hash:
        raise _Broken(last, f"entry {last} is not the one of the anchor: the log was rewritten")
    if anchor is not None and anchor.number > head.number:
        raise _Broken(
            head.number + 1,
            f"the log ends at {head.number}, but entry {anchor.number} was there when the anchor "
            "was taken: its end was cut off",
        )
    for row in _rows(session, last):
        if row.number != last + 1:
            raise _Broken(last + 1, f"entries {last + 1} to {row.number - 1} are missing")
        if entry_hash(dict(row._mapping), before) != row.hash:
            raise _Broken(
                row.number,
                f"entry {row.number} is not what was written, or does not follow entry {last}",
            )
        last, before = row.number, row.hash
        if anchor is not None and anchor.number == last and anchor.hash != before.hex():
            raise _Broken(last, f"entry {last} is not the one of the anchor: the log was rewritten")
    if (last, before.hex()) != (head.number, head.hash):
        if last < head.number:
            raise _Broken(last + 1, f"entries {last + 1} to {head.number} are missing at the end")
        raise _Broken(last, f"the log ends at {last}, but its head says {head.number}")
    return last


def _rows(session: Session, last: int) -> Iterator[Row[tuple[object, ...]]]:
    """The entries after `last` in order, a portion at a time."""
    table: SqlTable = AuditEntry.__table__  # type: ignore[assignment]
    while rows := session.execute(
        select(table).where(table.c.number > last).order_by(table.c.number).limit(_CHUNK)
    ).all():
        yield from rows
        last = rows[-1].number


def _require_told(session: Session, start: Anchor) -> None:
    """Raises _Broken unless the log itself tells that its beginning was deleted, up to `start`."""
    pruned = newest_pruning(session)
    details = {} if pruned is None else pruned.details
    told = details.get("number", 0), details.get("hash", FIRST_HASH.hex())
    if told != (start.number, start.hash):
        raise _Broken(
            start.number + 1,
            f"the log begins after entry {start.number}, and no entry says that what was before "
            "was deleted",
        )


def _compare_certificates(session: Session) -> int:
    """How many certificates of erasure are as the log says. Raises _Broken for one that is not."""
    start = _start(session).number
    mine = (AuditEntry.action == ISSUED) & (AuditEntry.number > start)
    issued = {row.subject: row for row in session.scalars(select(AuditEntry).where(mine))}
    untold: dict[str, str] = {}  # certificates of which no entry speaks any more, and their hashes
    for erasure_id, certificate in session.execute(select(Erasure.id, Erasure.certificate)):
        row = issued.pop(erasure_id, None)
        if row is None:
            untold[erasure_id] = sha256_hex(canonical(certificate))
            continue
        if row.details.get("sha256") != sha256_hex(canonical(certificate)):
            raise _Broken(row.number, f"the certificate {erasure_id} was changed")
    if issued:
        row = min(issued.values(), key=lambda one: one.number)
        raise _Broken(row.number, f"the certificate {row.subject} is missing")
    pruned = newest_pruning(session)
    if pruned is None and untold:
        raise _Broken(1, f"no entry speaks of the certificate {min(untold)}")
    if pruned is not None and pruned.details.get("certificates_sha256") != digest_of(untold):
        raise _Broken(
            pruned.number,
            "the certificates of erasure from before the log's beginning are not those that "
            f"entry {pruned.number} names",
        )
    return count_of(session, select(func.count()).select_from(Erasure))


def newest_pruning(session: Session) -> AuditEntry | None:
    """The entry of the last time that the log's beginning was deleted."""
    newest = select(AuditEntry).where(AuditEntry.action == PRUNED)
    return session.scalars(newest.order_by(AuditEntry.number.desc()).limit(1)).one_or_none()


def digest_of(certificates: Mapping[str, str]) -> str:
    """One hash for certificates, given by id with the hash of each."""
    return sha256_hex(canonical([[one, certificates[one]] for one in sorted(certificates)]))


def _start(session: Session) -> Anchor:
    row = session.get(AuditStart, 1)
    if row is None:
        raise RuntimeError("the audit log has lost its start")
    return Anchor(number=row.number, hash=row.hash.hex())


def _head(session: Session) -> Anchor:
    row = session.get(AuditHead, 1)
    if row is None:
        raise RuntimeError("the audit log has lost its head")
    return Anchor(number=row.number, hash=row.hash.hex())


def _conditions(query: AuditQuery) -> list[ColumnElement[bool]]:
    equal = {
        AuditEntry.actor: query.actor,
        AuditEntry.action: query.action,
        AuditEntry.subject: query.subject,
        AuditEntry.person: query.person,
        AuditEntry.request_id: query.request_id,
    }
    fits = [column == value for column, value in equal.items() if value is not None]
    if query.collection is not None:
        # Who looked at something is noted with the name that stood in the address.
        looked = AuditEntry.collection_number.is_(None) & (AuditEntry.subject == query.collection)
        here = AuditEntry.collection_number.in_(numbers_of(query.collection))
        fits.append(here | looked)
    if query.since is not None:
        fits.append(AuditEntry.at >= query.since)
    if query.until is not None:
        fits.append(AuditEntry.at < query.until)
    return fits


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
