"""Collections, their persons and groups."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from match_server.db.tables.base import CodePoints, Json, Name, Number, Table, UtcTime


class Collection(Table):
    __tablename__ = "collections"
    __table_args__ = ({"sqlite_autoincrement": True},)

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    name: Mapped[str] = mapped_column(Name, unique=True)
    model_id: Mapped[str] = mapped_column(String(80))
    dimension: Mapped[int] = mapped_column(Integer)
    generation: Mapped[int] = mapped_column(Integer, default=0)  # changes of the model so far
    encrypted: Mapped[bool] = mapped_column(default=False)  # fixed at creation
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
    """A person in a group; deleted with either."""

    __tablename__ = "memberships"

    group_number: Mapped[int] = mapped_column(
        ForeignKey("groups.number", ondelete="CASCADE"), primary_key=True
    )
    person_number: Mapped[int] = mapped_column(
        ForeignKey("persons.number", ondelete="CASCADE"), primary_key=True, index=True
    )


class PersonField(Table):
    """One value of the metadata of a person, copied so that searches can filter by it.

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
