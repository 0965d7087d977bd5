"""The change feed, its epochs, and the counters that number it and the events."""

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Name, Table, UtcTime, Uuid


class Counter(Table):
    """A number that grows with each write, under a row lock. Rows: `changes`, `events`.

    Unlike the numbers of a database sequence, these appear in the order of the commits: a follower
    that has read n has read everything below n.
    """

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(Name, primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class Change(Table):
    """One entry of the change feed, written in the transaction of the change. It has no names."""

    __tablename__ = "changes"
    __table_args__ = (Index("ix_changes_collection", "collection_number", "seq"),)

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    collection_number: Mapped[int] = mapped_column(
        BigInteger
    )  # of a collection that may be deleted
    kind: Mapped[str] = mapped_column(String(30))
    subject: Mapped[str] = mapped_column(String(63))
    template_number: Mapped[int | None] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(UtcTime)


class ServerProcess(Table):
    """A process that follows the feed, and the gallery files of its machine.

    The last row of a folder stays when its processes have ended: the files are still there.
    """

    __tablename__ = "server_processes"

    id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    folder: Mapped[str] = mapped_column(Name)  # id of the folder of its galleries
    kind: Mapped[str] = mapped_column(String(20))  # worker or ingest
    seq: Mapped[int] = mapped_column(BigInteger)  # nothing that was erased up to it is held
    running: Mapped[bool] = mapped_column(Boolean)
    reported_at: Mapped[datetime] = mapped_column(UtcTime)


class Epoch(Table):
    """A stretch of the change feed in which each number means one change, for every follower.

    The epoch with the highest number is the present one; docs/feed.md says when another begins.
    """

    __tablename__ = "epochs"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(String(16), unique=True)  # random
    begins_after: Mapped[int] = mapped_column(
        BigInteger
    )  # the last change of the epochs before it that this database has
    at: Mapped[datetime] = mapped_column(UtcTime)
    why: Mapped[str] = mapped_column(String(20))
    incarnation: Mapped[str | None] = mapped_column(
        String(80)
    )  # of the PostgreSQL that writes in it; NULL: SQLite, or nothing was written in it yet
