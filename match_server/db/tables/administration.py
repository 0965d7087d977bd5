"""Keys, numbers, the change feed, and files that are to go."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    LargeBinary,
    String,
)
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Name, Table, UtcTime


class Counter(Table):
    """A number that grows by one with each write, under a row lock.

    Unlike a database sequence, numbers appear in the order of the commits, on every database:
    a follower that has seen n has seen everything below n. Rows: `changes`, `events`.
    """

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(Name, primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class ApiKey(Table):
    """A key as it is kept: its hash. `id` is the part of the key that finds the row."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    role: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(200))
    device: Mapped[str | None] = mapped_column(Name)  # role device: the only one it may speak for
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime)  # from then on worth nothing
    last_used_at: Mapped[datetime | None] = mapped_column(UtcTime)  # within a minute or so


class EndedSession(Table):
    """A session of the pages that was ended before its time."""

    __tablename__ = "ended_sessions"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    ended_at: Mapped[datetime] = mapped_column(UtcTime, index=True)


class Change(Table):
    """One line of the change feed, written in the transaction of the change. Ids only, no names."""

    __tablename__ = "changes"
    __table_args__ = (Index("ix_changes_collection", "collection_number", "seq"),)

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    collection_number: Mapped[int] = mapped_column(BigInteger)  # of a row that may be gone
    kind: Mapped[str] = mapped_column(String(30))
    subject: Mapped[str] = mapped_column(String(63))
    template_number: Mapped[int | None] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(UtcTime)


class DoomedFile(Table):
    """A file to be deleted: written with the erasure, gone when the file is gone."""

    __tablename__ = "doomed_files"

    file: Mapped[str] = mapped_column(String(200), primary_key=True)
    storage_number: Mapped[int | None] = mapped_column(ForeignKey("storages.number"), index=True)
