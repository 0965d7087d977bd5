"""The tables. Names of people stand in `persons` alone, so erasing a row erases the name.

Internal keys are integers; what clients see are `id` columns (UUIDv7, or named by the client).
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

Json = dict[str, Any]

# 64 bits everywhere; SQLite numbers rows only in a column of type INTEGER, which has 64 there.
Number = BigInteger().with_variant(Integer, "sqlite")
Uuid = String(36)
Name = String(63)
# Ordered by code point everywhere, as SQLite does by itself.
CodePoints = String(200).with_variant(String(200, collation="C"), "postgresql")


class UtcTime(TypeDecorator[datetime]):
    """A timezone-aware moment, stored in UTC; SQLite has no time zones, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime names no moment")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of all tables. Every constraint has a name, so that a migration can change it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Counter(Table):
    """A number that grows by one with each write, under a row lock.

    Unlike a database sequence, numbers appear in the order of the commits, on every database:
    a follower that has seen n has seen everything below n. Rows: `changes`, `events`.
    """

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(Name, primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)


class Collection(Table):
    __tablename__ = "collections"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    model_id: Mapped[str] = mapped_column(String(80))  # fixed at creation
    dimension: Mapped[int] = mapped_column(Integer)
    max_templates: Mapped[int | None] = mapped_column(BigInteger)
    template_count: Mapped[int] = mapped_column(BigInteger, default=0)
    person_count: Mapped[int] = mapped_column(BigInteger, default=0)
    meta: Mapped[Json] = mapped_column("metadata", JSON)
    policy: Mapped[Json] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class Person(Table):
    __tablename__ = "persons"
    __table_args__ = (
        UniqueConstraint("collection_number", "id", name="uq_persons_id"),
        UniqueConstraint("collection_number", "external_id", name="uq_persons_external_id"),
        Index("ix_persons_name", "collection_number", "name"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    id: Mapped[str] = mapped_column(Name)
    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE")
    )
    name: Mapped[str] = mapped_column(String(200))
    external_id: Mapped[str | None] = mapped_column(String(200))
    meta: Mapped[Json] = mapped_column("metadata", JSON)
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime)
    created_at: Mapped[datetime] = mapped_column(UtcTime)

    collection: Mapped[Collection] = relationship(lazy="raise")


class Group(Table):
    """A set of persons of one collection. Its `id` is unique in the whole server."""

    __tablename__ = "groups"
    __table_args__ = (
        UniqueConstraint("collection_number", "name", name="uq_groups_name"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    id: Mapped[str] = mapped_column(Name, unique=True)
    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE")
    )
    name: Mapped[str] = mapped_column(String(200))
    meta: Mapped[Json] = mapped_column("metadata", JSON)
    created_at: Mapped[datetime] = mapped_column(UtcTime)

    collection: Mapped[Collection] = relationship(lazy="raise")


class Membership(Table):
    """That a person is in a group. Goes with either."""

    __tablename__ = "memberships"

    group_number: Mapped[int] = mapped_column(
        ForeignKey("groups.number", ondelete="CASCADE"), primary_key=True
    )
    person_number: Mapped[int] = mapped_column(
        ForeignKey("persons.number", ondelete="CASCADE"), primary_key=True, index=True
    )


class PersonField(Table):
    """One value of a person's metadata, kept once more so that a search can ask for it.

    Exactly one of `text`, `number` and `truth` is set.
    """

    __tablename__ = "person_fields"
    __table_args__ = (
        Index("ix_person_fields_text", "field", "text"),
        Index("ix_person_fields_number", "field", "number"),
    )

    person_number: Mapped[int] = mapped_column(
        ForeignKey("persons.number", ondelete="CASCADE"), primary_key=True
    )
    place: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    field: Mapped[str] = mapped_column(String(200))  # dotted path in the metadata
    text: Mapped[str | None] = mapped_column(CodePoints)
    number: Mapped[float | None]
    truth: Mapped[bool | None]


class Storage(Table):
    """Where photos go besides the data folder. It stays as long as anything lies in it."""

    __tablename__ = "storages"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    uri: Mapped[str] = mapped_column(String(1000))  # holds no keys
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class Image(Table):
    """A photo that a person was enrolled from; `file` is NULL where the photo was not kept."""

    __tablename__ = "images"

    id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    person_number: Mapped[int] = mapped_column(
        ForeignKey("persons.number", ondelete="CASCADE"), index=True
    )
    file: Mapped[str | None] = mapped_column(String(200))  # below the storage
    storage_number: Mapped[int | None] = mapped_column(
        ForeignKey("storages.number"), index=True
    )  # NULL: the data folder
    media_type: Mapped[str] = mapped_column(String(40))
    size_bytes: Mapped[int] = mapped_column(Integer)
    sha256: Mapped[bytes] = mapped_column(LargeBinary(32))  # of the file as it came
    quality: Mapped[Json] = mapped_column(JSON)
    detection: Mapped[Json] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcTime)

    person: Mapped[Person] = relationship(lazy="raise")
    storage: Mapped[Storage | None] = relationship(lazy="raise")


class Template(Table):
    """One reference. `number` is its id in the gallery and is never used twice."""

    __tablename__ = "templates"
    __table_args__ = (
        Index("ix_templates_collection", "collection_number", "number"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    id: Mapped[str] = mapped_column(Uuid, unique=True)
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
    vector: Mapped[bytes] = mapped_column(LargeBinary)  # little-endian float16, unit length
    quality: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(UtcTime)

    person: Mapped[Person] = relationship(lazy="raise")


class ImportedFile(Table):
    """How much of a file of vectors has been imported, written with the vectors themselves."""

    __tablename__ = "imported_files"

    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE"), primary_key=True
    )
    sha256: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)  # of the whole file
    lines: Mapped[int] = mapped_column(BigInteger)  # that need not be looked at again


class Device(Table):
    """An edge box that has spoken. `last - first + 1 - received` of its numbers are missing."""

    __tablename__ = "devices"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    site: Mapped[str | None] = mapped_column(Name)  # known once it has spoken over MQTT
    collection_number: Mapped[int | None] = mapped_column(
        ForeignKey("collections.number", ondelete="SET NULL")
    )  # NULL: the default one
    first_sequence: Mapped[int | None] = mapped_column(BigInteger)
    last_sequence: Mapped[int | None] = mapped_column(BigInteger)
    received: Mapped[int] = mapped_column(BigInteger, default=0)
    online: Mapped[bool | None]  # as its retained status says
    last_seen_at: Mapped[datetime | None] = mapped_column(UtcTime)


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


class ApiKey(Table):
    """A key as it is kept: its hash. `id` is the part of the key that finds the row."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    role: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(200))
    device: Mapped[str | None] = mapped_column(Name)  # role device: the only one it may speak for
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcTime)


class Change(Table):
    """One line of the change feed, written in the transaction of the change. Ids only, no names."""

    __tablename__ = "changes"
    __table_args__ = (Index("ix_changes_collection", "collection_number", "seq"),)

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    collection_number: Mapped[int] = mapped_column(BigInteger)  # of a row that may be gone
    kind: Mapped[str] = mapped_column(String(30))
    subject: Mapped[str] = mapped_column(String(63))
    template_number: Mapped[int | None] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(UtcTime)


class DoomedFile(Table):
    """A file to be deleted: written with the erasure, gone when the file is gone."""

    __tablename__ = "doomed_files"

    file: Mapped[str] = mapped_column(String(200), primary_key=True)
    storage_number: Mapped[int | None] = mapped_column(ForeignKey("storages.number"), index=True)
