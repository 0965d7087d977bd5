"""What the cameras saw."""

from datetime import datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from match_server.tables.base import Json, Name, Table, UtcTime, Uuid
from match_server.tables.people import Collection, Person


class Event(Table):
    """One sighting: one track before one camera, as its best probe shows it."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("device", "camera", "track_id", name="uq_events_track"),
        Index("ix_events_received", "received_at"),
    )

    id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, unique=True)  # counter `events`, last write
    created_revision: Mapped[int] = mapped_column(BigInteger)  # and at its first
    collection_number: Mapped[int | None] = mapped_column(
        ForeignKey("collections.number", ondelete="SET NULL"), index=True
    )
    device: Mapped[str] = mapped_column(Name)
    camera: Mapped[str] = mapped_column(Name, index=True)
    track_id: Mapped[str] = mapped_column(Uuid)
    decision: Mapped[str] = mapped_column(String(20))
    person_number: Mapped[int | None] = mapped_column(
        ForeignKey("persons.number", ondelete="SET NULL"), index=True
    )
    person_erased: Mapped[bool] = mapped_column(default=False)
    similarity: Mapped[float | None]  # of the best candidate
    first_captured_at: Mapped[datetime] = mapped_column(UtcTime)
    last_captured_at: Mapped[datetime] = mapped_column(UtcTime)
    captured_at: Mapped[datetime] = mapped_column(UtcTime)  # of the probe that is shown
    received_at: Mapped[datetime] = mapped_column(UtcTime)
    expires_at: Mapped[datetime] = mapped_column(UtcTime)
    live: Mapped[bool]
    probes: Mapped[int] = mapped_column(Integer)
    quality: Mapped[Json] = mapped_column(JSON)
    quality_score: Mapped[float]
    liveness: Mapped[float | None]
    box: Mapped[list[float]] = mapped_column(JSON)
    frame_size: Mapped[list[int]] = mapped_column(JSON)
    snapshot: Mapped[str | None] = mapped_column(String(200))  # file below the data folder

    person: Mapped[Person | None] = relationship(lazy="raise")
    collection: Mapped[Collection | None] = relationship(lazy="raise")
    candidates: Mapped[list["EventCandidate"]] = relationship(
        order_by="EventCandidate.rank",
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="raise",
    )


class EventCandidate(Table):
    """One line of an event's candidate list; it goes when its person goes."""

    __tablename__ = "event_candidates"

    event_id: Mapped[str] = mapped_column(
        ForeignKey("events.id", ondelete="CASCADE"), primary_key=True
    )
    rank: Mapped[int] = mapped_column(Integer, primary_key=True)
    person_number: Mapped[int] = mapped_column(
        ForeignKey("persons.number", ondelete="CASCADE"), index=True
    )
    template_id: Mapped[str] = mapped_column(Uuid)
    similarity: Mapped[float]

    person: Mapped[Person] = relationship(lazy="raise")


class Probe(Table):
    """A probe that was accepted: a second one with this id is a duplicate. Holds no template."""

    __tablename__ = "probes"

    id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    event_id: Mapped[str | None] = mapped_column(
        ForeignKey("events.id", ondelete="SET NULL"), index=True
    )
    device: Mapped[str] = mapped_column(Name)
    sequence: Mapped[int] = mapped_column(BigInteger)
    decision: Mapped[str] = mapped_column(String(20))
    person_number: Mapped[int | None] = mapped_column(
        ForeignKey("persons.number", ondelete="SET NULL"), index=True
    )
    similarity: Mapped[float | None]
    captured_at: Mapped[datetime] = mapped_column(UtcTime)
    received_at: Mapped[datetime] = mapped_column(UtcTime)
