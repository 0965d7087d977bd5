"""Storages of photos, and files that are to be deleted."""

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Name, Number, Table, UtcTime


class Storage(Table):
    """A place for photos besides the data folder. It cannot be removed while it holds files."""

    __tablename__ = "storages"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    uri: Mapped[str] = mapped_column(String(1000))  # holds no keys
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class DoomedFile(Table):
    """A file that must be deleted. The row is deleted together with the file."""

    __tablename__ = "doomed_files"

    file: Mapped[str] = mapped_column(String(200), primary_key=True)
    storage_number: Mapped[int | None] = mapped_column(ForeignKey("storages.number"), index=True)
