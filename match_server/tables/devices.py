"""The boxes."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    ForeignKey,
)
from sqlalchemy.orm import Mapped, mapped_column

from match_server.tables.base import Name, Number, Table, UtcTime


class Device(Table):
    """An edge box that has spoken. `last - first + 1 - received` of its numbers are missing."""

    __tablename__ = "devices"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    site: Mapped[str | None] = mapped_column(Name)  # known once it has spoken over MQTT
    collection_number: Mapped[int | None] = mapped_column(
        ForeignKey("collections.number", ondelete="SET NULL")
    )  # NULL: the default one
    first_sequence: Mapped[int | None] = mapped_column(BigInteger)
    last_sequence: Mapped[int | None] = mapped_column(BigInteger)
    received: Mapped[int] = mapped_column(BigInteger, default=0)
    online: Mapped[bool | None]  # as its retained status says
    last_seen_at: Mapped[datetime | None] = mapped_column(UtcTime)
