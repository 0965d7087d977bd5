"""The keys of encrypted collections, and templates of another model than the one in use."""

from datetime import datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Json, Number, Table, UtcTime, Uuid


class DataKey(Table):
    """A key of one collection, sealed with a master key that the database never sees.

    Of those for `seal`ing, the newest that is not retired seals; the others still open what was
    sealed with them. A row cannot go while templates, images or events name it.
    """

    __tablename__ = "data_keys"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE"), index=True
    )
    purpose: Mapped[str] = mapped_column(String(10))  # seal, or digest
    key_id: Mapped[str] = mapped_column(String(16), unique=True)  # hexadecimal
    master_id: Mapped[str] = mapped_column(String(16))  # of the master key that it is sealed with
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    retired_at: Mapped[datetime | None] = mapped_column(UtcTime)


class SpareTemplate(Table):
    """A template of a model that its collection does not search with: the next one, or the last.

    Columns as in `templates`. With a switch of models, rows change places between the two tables.
    """

    __tablename__ = "spare_templates"
    __table_args__ = (
        UniqueConstraint("id", "model_id", name="uq_spare_templates_id"),
        Index("ix_spare_templates_collection", "collection_number", "model_id", "number"),
        {"sqlite_autoincrement": True},
    )

    row: Mapped[int] = mapped_column(Number, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    id: Mapped[str] = mapped_column(Uuid)
    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE")
    )
    person_number: Mapped[int] = mapped_column(
        ForeignKey("persons.number", ondelete="CASCADE"), index=True
    )
    image_id: Mapped[str | None] = mapped_column(
        ForeignKey("images.id", ondelete="CASCADE"), index=True
    )
    model_id: Mapped[str] = mapped_column(String(80))
    vector: Mapped[bytes] = mapped_column(LargeBinary)
    data_key: Mapped[int | None] = mapped_column(ForeignKey("data_keys.number"), index=True)
    quality: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class ModelChange(Table):
    """A change of a collection's model that is prepared, or made and not yet final."""

    __tablename__ = "model_changes"

    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE"), primary_key=True
    )
    model_id: Mapped[str] = mapped_column(String(80))  # of the other model: the next, or the last
    dimension: Mapped[int] = mapped_column(Integer)
    switched: Mapped[bool]  # whether the collection uses the new model already
    policy: Mapped[Json] = mapped_column(JSON)  # that goes with the other model, once switched
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class Unembedded(Table):
    """A template that a model change could make nothing of, and why."""

    __tablename__ = "unembedded"

    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE"), primary_key=True
    )
    template_id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    person_number: Mapped[int] = mapped_column(
        ForeignKey("persons.number", ondelete="CASCADE"), index=True
    )
    reason: Mapped[str] = mapped_column(String(40))
