"""Rows for every table, with values of every column type."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    delete,
    insert,
    select,
)

ROWS = 3  # the last one with NULL wherever that is allowed


def fill(connection: Connection, metadata: MetaData) -> None:
    """Fill each table with rows. Foreign keys refer to the row of the same number."""
    for table in reversed(metadata.sorted_tables):
        if connection.execute(select(table).limit(1)).first():  # put there by a migration
            connection.execute(delete(table))
    for table in metadata.sorted_tables:
        rows = [
            {column.name: _value(column, number) for column in table.columns}
            for number in range(ROWS)
        ]
        connection.execute(insert(table), rows)


def contents(connection: Connection, metadata: MetaData) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, in the order of their keys."""
    actual = {}
    for table in metadata.sorted_tables:
        result = connection.execute(select(table).order_by(*table.primary_key.columns))
        actual[table.name] = [tuple(_comparable(value) for value in row) for row in result]
    return actual


def _comparable(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value


def _value(column: Column[Any], number: int) -> Any:
    if number == ROWS - 1 and column.nullable and not _json(column):
        return None
    for key in column.foreign_keys:
        return _value(key.column, number)
    kind = column.type
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    if isinstance(kind, JSON):
        return {"é": [number, 0.1, None, "\u2028"], "deep": {"true": True}}
    if isinstance(kind, LargeBinary):
        return bytes([number, 0, 255]) * 7
    if isinstance(kind, DateTime):
        return datetime(2026, 2, 28, 23, 59, 59, 999_999 - number, UTC) + timedelta(days=number)
    if isinstance(kind, Date):
        return date(2026, 12, 31) + timedelta(days=number)
    if isinstance(kind, Boolean):
        return bool(number % 2)
    if isinstance(kind, Integer):
        return number + 1
    if isinstance(kind, Float):
        return 0.1 + number
    if isinstance(kind, String):
        return f"{number}é{column.name}"[: kind.length]
    raise TypeError(f"no value is known for {column.table.name}.{column.name}: {kind!r}")


def _json(column: Column[Any]) -> bool:
    return isinstance(column.type, JSON)


def tables_of(connection: Connection) -> MetaData:
    """The tables as the database describes them."""
    metadata = MetaData()
    metadata.reflect(connection)
    metadata.remove(metadata.tables["alembic_version"])
    return metadata
