"""The base of all tables: column types, and names of constraints."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase

Json = dict[str, Any]

# 64 bits on both; SQLite assigns row numbers only in a column of type INTEGER, which has 64 bits.
Number = BigInteger().with_variant(Integer, "sqlite")
Uuid = String(36)
Name = String(63)
# Ordered by code point on both, which is the default of SQLite.
CodePoints = String(200).with_variant(String(200, collation="C"), "postgresql")


def where_encrypted(table: str) -> Index:
    """An index of rows by data key, without the rows that are not encrypted."""
    used = text("data_key IS NOT NULL")
    return Index(f"ix_{table}_data_key", "data_key", sqlite_where=used, postgresql_where=used)


class UtcTime(TypeDecorator[datetime]):
    """A timezone-aware moment, stored in UTC. SQLite stores no zone, so reading adds it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone is ambiguous")
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
