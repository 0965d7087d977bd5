"""Enrolled photos and the templates made from them."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, LargeBinary, String, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from match_server.db.tables.base import Json, Number, Table, UtcTime, Uuid, where_encrypted
from match_server.db.tables.files import Storage
from match_server.db.tables.people import Person

_NOT_HASHED = text("vector_hash IS NULL")


class Image(Table):
    """A photo that a person was enrolled from; `file` is NULL where the photo was not kept."""

    __tablename__ = "images"
    __table_args__ = (where_encrypted("images"),)

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
    sha256: Mapped[bytes] = mapped_column(LargeBinary(32))  # of the original file; in an encrypted
    # collection with a key (HMAC), so that a digest of a known photo cannot be compared
    data_key: Mapped[int | None] = mapped_column(ForeignKey("data_keys.number"))  # of the file
    quality: Mapped[Json] = mapped_column(JSON)
    detection: Mapped[Json] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcTime)

    person: Mapped[Person] = relationship(lazy="raise")
    storage: Mapped[Storage | None] = relationship(lazy="raise")


class TemplateColumns:
    """The columns that `templates` and `spare_templates` have in common."""

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
    # Little-endian float16 of unit length; encrypted if the collection is.
    vector: Mapped[bytes] = mapped_column(LargeBinary)
    # Hash of the vector, as a signed number; masked where the vector is encrypted. NULL: the row is
    # of an earlier version and not hashed yet, or a user who changed the vector has deleted it.
    vector_hash: Mapped[int | None] = mapped_column(BigInteger)
    quality: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class Template(TemplateColumns, Table):
    """One reference. `number` is its id in the gallery and is never used twice."""

    __tablename__ = "templates"
    __table_args__ = (
        # All that a comparison with a follower reads.
        Index(
            "ix_templates_collection",
            "collection_number",
            "number",
            "person_number",
            "vector_hash",
        ),
        Index(
            "ix_templates_not_hashed",
            "collection_number",
            "number",
            sqlite_where=_NOT_HASHED,
            postgresql_where=_NOT_HASHED,
        ),
        where_encrypted("templates"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True)
    id: Mapped[str] = mapped_column(Uuid, unique=True)
    data_key: Mapped[int | None] = mapped_column(ForeignKey("data_keys.number"))  # NULL: plain

    person: Mapped[Person] = relationship(lazy="raise")


class ImportedFile(Table):
    """How much of a file of vectors has been imported, written with the vectors themselves."""

    __tablename__ = "imported_files"

    collection_number: Mapped[int] = mapped_column(
        ForeignKey("collections.number", ondelete="CASCADE"), primary_key=True
    )
    sha256: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)  # of the whole file
    lines: Mapped[int] = mapped_column(BigInteger)  # that are imported
