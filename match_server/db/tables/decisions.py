"""Decisions of users on sightings, with the data to learn from them and to undo them."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from match_server.db.tables.base import Name, Table, UtcTime, Uuid


class EventTemplate(Table):
    """The template of the best probe of a sighting; deleted with its thumbnail."""

    __tablename__ = "event_templates"

    id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    event_id: Mapped[str] = mapped_column(ForeignKey("events.id", ondelete="CASCADE"), unique=True)
    model_id: Mapped[str] = mapped_column(String(80))
    vector: Mapped[bytes] = mapped_column(LargeBinary)  # encrypted if the collection is


class EventDecision(Table):
    """The decision of a user on one sighting; deleted when undone. The audit log has both."""

    __tablename__ = "event_decisions"
    __table_args__ = (Index("ix_event_decisions_template", "template_id"),)

    id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    event_id: Mapped[str] = mapped_column(ForeignKey("events.id", ondelete="CASCADE"), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    person_number: Mapped[int | None] = mapped_column(
        ForeignKey("persons.number", ondelete="CASCADE"), index=True
    )
    actor: Mapped[str] = mapped_column(Name)
    at: Mapped[datetime] = mapped_column(UtcTime)
    template_id: Mapped[str | None] = mapped_column(Uuid)  # of the reference made from it


class EventLabel(Table):
    """The values of a sighting before a decision changed them, to restore them."""

    __tablename__ = "event_labels"

    event_id: Mapped[str] = mapped_column(
        ForeignKey("events.id", ondelete="CASCADE"), primary_key=True
    )
    decision_id: Mapped[str] = mapped_column(
        ForeignKey("event_decisions.id", ondelete="CASCADE"), index=True
    )
    decision: Mapped[str] = mapped_column(String(20))
    person_number: Mapped[int | None] = mapped_column(
        ForeignKey("persons.number", ondelete="SET NULL"), index=True
    )
    person_erased: Mapped[bool]
