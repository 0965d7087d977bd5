"""Calibrations: measured error rates of a model, adopted by a collection."""

from datetime import datetime

from sqlalchemy import JSON, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Json, Number, Table, UtcTime


class Calibration(Table):
    """A calibration file. A collection uses the newest of its model that is not retired."""

    __tablename__ = "calibrations"
    __table_args__ = (
        Index("ix_calibrations_collection", "collection_number", "number"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE")
    )
    model_id: Mapped[str] = mapped_column(String(80))
    sha256: Mapped[str] = mapped_column(String(64))
    file: Mapped[Json] = mapped_column(JSON)
    adopted_at: Mapped[datetime] = mapped_column(UtcTime)
    retired_at: Mapped[datetime | None] = mapped_column(UtcTime)
