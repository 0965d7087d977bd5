"""Sightings: events with their tracks, candidates and probes, and the faces in view."""

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

from match_server.db.tables.base import Json, Name, Table, UtcTime, Uuid, where_encrypted


class Event(Table):
    """One sighting of a person by one camera, over one or several tracks, with its best probe.

    A sighting that was merged into another stays as a row without names, so that clients that
    received it can find the other one.
    """

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("device", "camera", "track_id", name="uq_events_track"),
        Index("ix_events_received", "received_at"),
        Index("ix_events_sighting", "person_number", "camera", "last_captured_at"),
        where_encrypted("events"),
    )

    id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    revision: Mapped[int] = mapped_column(
        BigInteger, unique=True
    )  # number of its last write, of the counter `events`
    created_revision: Mapped[int] = mapped_column(BigInteger)  # number of its first write
    collection_number: Mapped[int | None] = mapped_column(
        ForeignKey("collections.number", ondelete="SET NULL"), index=True
    )
    device: Mapped[str] = mapped_column(Name)
    camera: Mapped[str] = mapped_column(Name, index=True)
    # The track that began it, or a new id if that track had begun another sighting.
    track_id: Mapped[str] = mapped_column(Uuid)
    shown_track_id: Mapped[str | None] = mapped_column(Uuid)  # NULL: the track that began it
    tracks: Mapped[int] = mapped_column(Integer, default=1, server_default="1")
    merged_into: Mapped[str | None] = mapped_column(Uuid)  # the sighting that includes this one
    decision: Mapped[str] = mapped_column(String(20))
    person_number: Mapped[int | None] = mapped_column(
        ForeignKey("persons.number", ondelete="SET NULL"), index=True
    )
    person_erased: Mapped[bool] = mapped_column(default=False)
    similarity: Mapped[float | None]  # of the best candidate
    threshold: Mapped[float | None]  # of the decision; NULL: of a version that did not store it
    first_captured_at: Mapped[datetime] = mapped_column(UtcTime)
    last_captured_at: Mapped[datetime] = mapped_column(UtcTime)
    captured_at: Mapped[datetime] = mapped_column(UtcTime)  # of the best probe
    received_at: Mapped[datetime] = mapped_column(UtcTime)
    expires_at: Mapped[datetime] = mapped_column(UtcTime)
    live: Mapped[bool]
    probes: Mapped[int] = mapped_column(Integer)
    shots: Mapped[int] = mapped_column(
        Integer, default=1, server_default="1"
    )  # that the decision is based on
    quality: Mapped[Json] = mapped_column(JSON)
    quality_score: Mapped[float]
    liveness: Mapped[float | None]
    box: Mapped[list[float]] = mapped_column(JSON)
    frame_size: Mapped[list[int]] = mapped_column(JSON)
    snapshot: Mapped[str | None] = mapped_column(String(200))  # file below the data folder
    # Decision of the device itself, before it sent the probe; NULL: none.
    local_decision: Mapped[str | None] = mapped_column(String(20))
    local_person_number: Mapped[int | None] = mapped_column(
        ForeignKey("persons.number", ondelete="SET NULL"), index=True
    )
    local_similarity: Mapped[float | None]
    data_key: Mapped[int | None] = mapped_column(ForeignKey("data_keys.number"))  # of that file
    # Decision of a user on this or a similar sighting: probes do not change it any more.
    review: Mapped[str | None] = mapped_column(String(20))


class EventTrack(Table):
    """One track of a sighting, with the best result of its own probes."""

    __tablename__ = "event_tracks"

    track_id: Mapped[str] = mapped_column(
        Uuid, primary_key=True
    )  # first, for queries by track alone
    device: Mapped[str] = mapped_column(Name, primary_key=True)
    camera: Mapped[str] = mapped_column(Name, primary_key=True)
    event_id: Mapped[str] = mapped_column(ForeignKey("events.id", ondelete="CASCADE"), index=True)
    decision: Mapped[str] = mapped_column(String(20))
    similarity: Mapped[float | None]
    quality_score: Mapped[float]


class TrackTemplate(Table):
    """The fused template of one track, for a short time: see `fuse_tracks_s`."""

    __tablename__ = "track_templates"
    __table_args__ = (
        Index("ix_track_templates_received", "received_at"),
        Index("ix_track_templates_camera", "camera", "received_at"),
    )

    track_id: Mapped[str] = mapped_column(
        Uuid, primary_key=True
    )  # first, for queries by track alone
    device: Mapped[str] = mapped_column(Name, primary_key=True)
    camera: Mapped[str] = mapped_column(Name, primary_key=True)
    probe_id: Mapped[str] = mapped_column(Uuid)  # the last that changed this row
    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE"), index=True
    )
    model_id: Mapped[str] = mapped_column(String(80))
    # Weighted sum of the shots, float16; encrypted if the collection is.
    vector: Mapped[bytes] = mapped_column(LargeBinary)
    shots: Mapped[int] = mapped_column(Integer)
    sender_fuses: Mapped[bool]
    captured_at: Mapped[datetime] = mapped_column(UtcTime)  # of the newest shot
    disputed: Mapped[bool]
    received_at: Mapped[datetime] = mapped_column(UtcTime)


class EventCandidate(Table):
    """One candidate of an event; deleted with its person."""

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
    match_probability: Mapped[float | None]  # NULL: without an adopted calibration


class Probe(Table):
    """An accepted probe: another one with this id is a duplicate. It holds no template."""

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
    """The number of faces in view of a camera, by the last message of its device."""

    __tablename__ = "camera_views"

    device: Mapped[str] = mapped_column(Name, primary_key=True)
    camera: Mapped[str] = mapped_column(Name, primary_key=True)
    in_view: Mapped[int] = mapped_column(Integer)
    at: Mapped[datetime] = mapped_column(UtcTime)  # by the clock of the device
    received_at: Mapped[datetime] = mapped_column("heard_at", UtcTime)


class TrackInView(Table):
    """A face in view of a camera."""

    __tablename__ = "tracks_in_view"

    device: Mapped[str] = mapped_column(Name, primary_key=True)
    camera: Mapped[str] = mapped_column(Name, primary_key=True)
    track_id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    began_at: Mapped[datetime] = mapped_column(UtcTime)  # by the clock of the device
