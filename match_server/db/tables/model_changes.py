"""Changes of the model of a collection, and the templates of the other model."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Json, Number, Table, UtcTime, Uuid
from match_server.db.tables.references import TemplateColumns


class ModelChange(Table):
    """A change of the model of a collection: in preparation, or made and not yet final."""

    __tablename__ = "model_changes"

    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE"), primary_key=True
    )
    model_id: Mapped[str] = mapped_column(
        String(80)
    )  # of the other model: the next or the previous one
    dimension: Mapped[int] = mapped_column(Integer)
    switched: Mapped[bool]  # whether the collection uses the new model already
    policy: Mapped[Json] = mapped_column(JSON)  # for the other model, after the switch
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class SpareTemplate(TemplateColumns, Table):
    """A template of the next or the previous model of its collection, which is not searched.

    A switch of models exchanges the rows of this table and of `templates`.
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
    data_key: Mapped[int | None] = mapped_column(ForeignKey("data_keys.number"), index=True)


class Unembedded(Table):
    """A template for which the new model made no template, and the reason."""

    __tablename__ = "unembedded"

    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE"), primary_key=True
    )
    template_id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    person_number: Mapped[int] = mapped_column(
        ForeignKey("persons.number", ondelete="CASCADE"), index=True
    )
    reason: Mapped[str] = mapped_column(String(40))
