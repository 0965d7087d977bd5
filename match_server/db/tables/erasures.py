"""The certificates of erasures."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Json, Name, Table, UtcTime, Uuid


class Erasure(Table):
    """The certificate of an erasure. `certificate` never changes; the audit chain has its hash."""

    __tablename__ = "erasures"
    __table_args__ = (Index("ix_erasures_person", "person"),)

    id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    person: Mapped[str] = mapped_column(Name)  # id
    collection_number: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(UtcTime)
    change_seq: Mapped[int] = mapped_column(
        BigInteger
    )  # followers that have read this number have erased the person
    certificate: Mapped[Json] = mapped_column(JSON)
    files: Mapped[list[str]] = mapped_column(JSON)  # that must be deleted
    waiting: Mapped[list[Json]] = mapped_column(
        JSON
    )  # parts that may still hold data, at the last check
    completed_at: Mapped[datetime | None] = mapped_column(UtcTime)
