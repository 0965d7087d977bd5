"""What the cameras saw."""

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
from sqlalchemy.orm import Mapped, mapped_column, relationship

from match_server.db.tables.base import Json, Name, Table, UtcTime, Uuid, where_encrypted
from match_server.db.tables.people import Collection, Person


class Event(Table):
    """One sighting: a person before one camera, over one track or several, as its best probe shows.

    A sighting that turned out to be part of another stays as a row without names, so that those
    who were told of it can learn where it went.
    """

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("device", "camera", "track_id", name="uq_events_track"),
        Index("ix_events_received", "received_at"),
        Index("ix_events_sighting", "person_number", "camera", "last_captured_at"),
        where_encrypted("events"),
    )

    id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, unique=True)  # counter `events`, last write
    created_revision: Mapped[int] = mapped_column(BigInteger)  # and at its first
    collection_number: Mapped[int | None] = mapped_column(
        ForeignKey("collections.number", ondelete="SET NULL"), index=True
    )
    device: Mapped[str] = mapped_column(Name)
    camera: Mapped[str] = mapped_column(Name, index=True)
    # The track that began it, or a number of its own where that track had begun another sighting.
    track_id: Mapped[str] = mapped_column(Uuid)
    shown_track_id: Mapped[str | None] = mapped_column(Uuid)  # NULL: the track that began it
    tracks: Mapped[int] = mapped_column(Integer, default=1, server_default="1")
    merged_into: Mapped[str | None] = mapped_column(Uuid)  # the sighting that this one is part of
    decision: Mapped[str] = mapped_column(String(20))
    person_number: Mapped[int | None] = mapped_column(
        ForeignKey("persons.number", ondelete="SET NULL"), index=True
    )
    person_erased: Mapped[bool] = mapped_column(default=False)
    similarity: Mapped[float | None]  # of the best candidate
    threshold: Mapped[float | None]  # that decided; NULL: from before it was kept
    first_captured_at: Mapped[datetime] = mapped_column(UtcTime)
    last_captured_at: Mapped[datetime] = mapped_column(UtcTime)
    captured_at: Mapped[datetime] = mapped_column(UtcTime)  # of the probe that is shown
    received_at: Mapped[datetime] = mapped_column(UtcTime)
    expires_at: Mapped[datetime] = mapped_column(UtcTime)
    live: Mapped[bool]
    probes: Mapped[int] = mapped_column(Integer)
    shots: Mapped[int] = mapped_column(Integer, default=1, server_default="1")  # the answer is of
    quality: Mapped[Json] = mapped_column(JSON)
    quality_score: Mapped[float]
    liveness: Mapped[float | None]
    box: Mapped[list[float]] = mapped_column(JSON)
    frame_size: Mapped[list[int]] = mapped_column(JSON)
    snapshot: Mapped[str | None] = mapped_column(String(200))  # file below the data folder
    # What the box made of it by itself, before this server was asked; NULL: nothing.
    local_decision: Mapped[str | None] = mapped_column(String(20))
    local_person_number: Mapped[int | None] = mapped_column(
        ForeignKey("persons.number", ondelete="SET NULL"), index=True
    )
    local_similarity: Mapped[float | None]
    data_key: Mapped[int | None] = mapped_column(ForeignKey("data_keys.number"))  # of that file
    # A person's word on this sighting, or on one that it is like: the probes change it no more.
    review: Mapped[str | None] = mapped_column(String(20))

    person: Mapped[Person | None] = relationship(foreign_keys=[person_number], lazy="raise")
    local_person: Mapped[Person | None] = relationship(
        foreign_keys=[local_person_number], lazy="raise"
    )
    collection: Mapped[Collection | None] = relationship(lazy="raise")
    candidates: Mapped[list["EventCandidate"]] = relationship(
        order_by="EventCandidate.rank",
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="raise",
    )


class EventTrack(Table):
    """One track of a sighting, and the best that its own probes said of it."""

    __tablename__ = "event_tracks"

    track_id: Mapped[str] = mapped_column(Uuid, primary_key=True)  # first: it is asked for alone
    device: Mapped[str] = mapped_column(Name, primary_key=True)
    camera: Mapped[str] = mapped_column(Name, primary_key=True)
    event_id: Mapped[str] = mapped_column(ForeignKey("events.id", ondelete="CASCADE"), index=True)
    decision: Mapped[str] = mapped_column(String(20))
    similarity: Mapped[float | None]
    quality_score: Mapped[float]

    event: Mapped[Event] = relationship(lazy="raise")


class TrackTemplate(Table):
    """What the probes of one track have shown so far, for a short while: see `fuse_tracks_s`."""

    __tablename__ = "track_templates"
    __table_args__ = (
        Index("ix_track_templates_received", "received_at"),
        Index("ix_track_templates_camera", "camera", "received_at"),
    )

    track_id: Mapped[str] = mapped_column(Uuid, primary_key=True)  # first: it is asked for alone
    device: Mapped[str] = mapped_column(Name, primary_key=True)
    camera: Mapped[str] = mapped_column(Name, primary_key=True)
    probe_id: Mapped[str] = mapped_column(Uuid)  # the last that changed this row
    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE"), index=True
    )
    model_id: Mapped[str] = mapped_column(String(80))
    # Weighted sum of the shots, float16; sealed where the collection is encrypted.
    vector: Mapped[bytes] = mapped_column(LargeBinary)
    shots: Mapped[int] = mapped_column(Integer)
    sender_fuses: Mapped[bool]
    captured_at: Mapped[datetime] = mapped_column(UtcTime)  # of the newest shot
    disputed: Mapped[bool]
    received_at: Mapped[datetime] = mapped_column(UtcTime)


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
    match_probability: Mapped[float | None]  # NULL: no calibration had been adopted

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


class CameraView(Table):
    """How many faces are before a camera now, as its box last said."""

    __tablename__ = "camera_views"

    device: Mapped[str] = mapped_column(Name, primary_key=True)
    camera: Mapped[str] = mapped_column(Name, primary_key=True)
    in_view: Mapped[int] = mapped_column(Integer)
    at: Mapped[datetime] = mapped_column(UtcTime)  # by the box's clock
    received_at: Mapped[datetime] = mapped_column("heard_at", UtcTime)


class TrackInView(Table):
    """A face that is before a camera now."""

    __tablename__ = "tracks_in_view"

    device: Mapped[str] = mapped_column(Name, primary_key=True)
    camera: Mapped[str] = mapped_column(Name, primary_key=True)
    track_id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    began_at: Mapped[datetime] = mapped_column(UtcTime)  # by the box's clock
