"""The data keys of encrypted collections."""

from datetime import datetime

from sqlalchemy import ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Number, Table, UtcTime


class DataKey(Table):
    """A key of one collection, encrypted with a master key that is not in the database.

    Of the keys for the purpose `seal`, the newest that is not retired encrypts; the others decrypt
    older data. A row cannot be deleted while templates, images or events name it.
    """

    __tablename__ = "data_keys"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE"), index=True
    )
    purpose: Mapped[str] = mapped_column(String(10))  # seal, or digest
    key_id: Mapped[str] = mapped_column(String(16), unique=True)  # hexadecimal
    master_id: Mapped[str] = mapped_column(String(16))  # of the master key that encrypts it
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    retired_at: Mapped[datetime | None] = mapped_column(UtcTime)
