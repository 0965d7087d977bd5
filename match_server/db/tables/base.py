"""What all tables are made of: column types, and how constraints are named."""

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

# 64 bits everywhere; SQLite numbers rows only in a column of type INTEGER, which has 64 there.
Number = BigInteger().with_variant(Integer, "sqlite")
Uuid = String(36)
Name = String(63)
# Ordered by code point everywhere, as SQLite does by itself.
CodePoints = String(200).with_variant(String(200, collation="C"), "postgresql")


def where_encrypted(table: str) -> Index:
    """By which the rows under one data key are found; plain rows take no room in it."""
    used = text("data_key IS NOT NULL")
    return Index(f"ix_{table}_data_key", "data_key", sqlite_where=used, postgresql_where=used)


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
