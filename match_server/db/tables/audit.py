"""The audit log: a chain of entries, its end and its beginning."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Json, Name, Table, UtcTime


class AuditEntry(Table):
    """One entry of the audit chain. Ids and counts only: no names, nothing biometric.

    `hash` is SHA-256 over the content and the hash of the previous entry. Triggers of the database
    (migrations 0004 and 0008) prevent changes of a row, and deletion after `audit_start`. There are
    no foreign keys, because the rows that an entry names may be deleted.
    """

    __tablename__ = "audit_entries"
    __table_args__ = (
        Index("ix_audit_entries_subject", "subject"),
        Index("ix_audit_entries_person", "person"),
    )

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(UtcTime)
    actor: Mapped[str] = mapped_column(String(80))  # `key 0a1b…`, `command erase`, `server`
    role: Mapped[str | None] = mapped_column(String(20))  # of a key
    action: Mapped[str] = mapped_column(String(80))
    collection_number: Mapped[int | None] = mapped_column(BigInteger)
    subject: Mapped[str | None] = mapped_column(String(200))
    person: Mapped[str | None] = mapped_column(Name)  # id of the person concerned
    details: Mapped[Json] = mapped_column(JSON)
    request_id: Mapped[str | None] = mapped_column(String(64))
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))


class AuditHead(Table):
    """The last entry of the chain. One row with id 1, which every transaction locks to append."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))


class AuditStart(Table):
    """The entry before the first of the chain: the last one that retention deleted.

    One row with id 1; number 0 and a hash of zeros as long as nothing was deleted.
    """

    __tablename__ = "audit_start"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))
