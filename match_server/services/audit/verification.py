"""Verifying the audit log: the chain of hashes entry by entry, and the certificates of erasures."""

from collections.abc import Iterator, Mapping

from sqlalchemy import Row, func, select
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import Session

from match_server.db.tables import AuditEntry, AuditHead, AuditStart, Erasure
from match_server.schemas.audit import Anchor, AuditVerified
from match_server.services.audit.chain import (
    FIRST_HASH,
    ISSUED,
    PRUNED,
    canonical,
    entry_hash,
    sha256_hex,
)
from match_server.services.lookups import count_of
from shared.errors import Conflict

_CHUNK = 5000  # entries in memory at a time


class _Broken(Exception):
    """The number of the first invalid entry, and the problem."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(problem)
        self.number = number
        self.problem = problem


def verified(session: Session, anchor: Anchor | None) -> AuditVerified:
    """The result of `Audit.verify`."""
    start, head = start_of(session), head_of(session)
    if anchor is not None and anchor.number < start.number:
        raise Conflict(
            f"entry {anchor.number} was deleted by retention: the oldest that can be "
            f"compared is {start.number}",
            oldest=start.number,
        )
    number, certificates, broken = start.number, 0, None
    try:
        number = _walk(session, start, head, anchor)
        _check_start(session, start)
        certificates = _compare_certificates(session)
    except _Broken as error:
        broken = error
    return AuditVerified(
        entries=max(0, (number if broken is None else broken.number - 1) - start.number),
        start=start,
        certificates=certificates,
        head=head,
        broken_at=None if broken is None else broken.number,
        problem=None if broken is None else broken.problem,
    )


def start_of(session: Session) -> Anchor:
    """The entry before the first one: the last that retention deleted."""
    row = session.get(AuditStart, 1)
    if row is None:
        raise RuntimeError("the audit log has no start")
    return Anchor(number=row.number, hash=row.hash.hex())


def head_of(session: Session) -> Anchor:
    """The last entry."""
    row = session.get(AuditHead, 1)
    if row is None:
        raise RuntimeError("the audit log has no head")
    return Anchor(number=row.number, hash=row.hash.hex())


def _walk(session: Session, start: Anchor, head: Anchor, anchor: Anchor | None) -> int:
    """Check the hash of every entry. Returns the last number. Raises _Broken."""
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
    """The entries after `last` in order, read in portions."""
    table: SqlTable = AuditEntry.__table__  # type: ignore[assignment]
    while rows := session.execute(
        select(table).where(table.c.number > last).order_by(table.c.number).limit(_CHUNK)
    ).all():
        yield from rows
        last = rows[-1].number


def _check_start(session: Session, start: Anchor) -> None:
    """Raises _Broken unless an entry of the log says that retention deleted all up to `start`."""
    pruned = newest_pruning(session)
    details = {} if pruned is None else pruned.details
    noted = details.get("number", 0), details.get("hash", FIRST_HASH.hex())
    if noted != (start.number, start.hash):
        raise _Broken(
            start.number + 1,
            f"the log begins after entry {start.number}, and no entry says that retention deleted "
            "the entries before",
        )


def _compare_certificates(session: Session) -> int:
    """Compare the certificates of erasure with the log. Returns their number. Raises _Broken."""
    start = start_of(session).number
    is_issue = (AuditEntry.action == ISSUED) & (AuditEntry.number > start)
    issued = {row.subject: row for row in session.scalars(select(AuditEntry).where(is_issue))}
    older: dict[str, str] = {}  # hashes of certificates whose entries retention deleted
    for erasure_id, certificate in session.execute(select(Erasure.id, Erasure.certificate)):
        row = issued.pop(erasure_id, None)
        if row is None:
            older[erasure_id] = sha256_hex(canonical(certificate))
            continue
        if row.details.get("sha256") != sha256_hex(canonical(certificate)):
            raise _Broken(row.number, f"the certificate {erasure_id} was changed")
    if issued:
        row = min(issued.values(), key=lambda row: row.number)
        raise _Broken(row.number, f"the certificate {row.subject} is missing")
    pruned = newest_pruning(session)
    if pruned is None and older:
        raise _Broken(1, f"no entry names the certificate {min(older)}")
    if pruned is not None and pruned.details.get("certificates_sha256") != digest_of(older):
        raise _Broken(
            pruned.number,
            "the certificates of erasure from before the log's beginning are not those that "
            f"entry {pruned.number} names",
        )
    return count_of(session, select(func.count()).select_from(Erasure))


def newest_pruning(session: Session) -> AuditEntry | None:
    """The entry of the last deletion by retention."""
    newest = select(AuditEntry).where(AuditEntry.action == PRUNED)
    return session.scalars(newest.order_by(AuditEntry.number.desc()).limit(1)).one_or_none()


def digest_of(certificates: Mapping[str, str]) -> str:
    """One hash for all certificates; the argument maps their ids to their hashes."""
    return sha256_hex(canonical([[key, certificates[key]] for key in sorted(certificates)]))
