"""The counters, and the change feed that is numbered by one of them."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, String
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
