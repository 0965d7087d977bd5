"""Which boxes hold which galleries, and how far they have followed the change feed."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Number, Table, UtcTime


class Follower(Table):
    """That a device may hold the templates of a collection, and what it says it has of them.

    A row stays until the device has learned that it may not any more: until then it is one of
    those that an erasure has to reach.
    """

    __tablename__ = "followers"

    device_number: Mapped[int] = mapped_column(
        Number, ForeignKey("devices.number", ondelete="CASCADE"), primary_key=True
    )
    collection_number: Mapped[int] = mapped_column(
        Number, ForeignKey("collections.number", ondelete="CASCADE"), primary_key=True, index=True
    )
    groups: Mapped[list[str]] = mapped_column(JSON)  # ids; none: everybody of the collection
    names: Mapped[bool]  # whether the box learns what the persons are called
    granted_at: Mapped[datetime] = mapped_column(UtcTime)
    withdrawn_at: Mapped[datetime | None] = mapped_column(UtcTime)
    # Everything up to this number of the feed is durable on the box. 0: a snapshot is under way;
    # NULL: it has never asked for anything.
    seq: Mapped[int | None] = mapped_column(BigInteger)
    spoke_at: Mapped[datetime | None] = mapped_column(UtcTime)  # last
    forgets_at: Mapped[datetime | None] = mapped_column(UtcTime)  # if it does not speak again
    decided: Mapped[int] = mapped_column(BigInteger, default=0)  # probes, by the box itself
    disagreed: Mapped[int] = mapped_column(BigInteger, default=0)  # of these, not confirmed here
