"""Rows of any table as JSON and bytes, and back, exactly as the database holds them.

Encrypted templates stay encrypted, JSON stays the same text, and NULL differs from a JSON null.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    Boolean,
    Connection,
    Date,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    cast,
    column,
    func,
    select,
    text,
)
from sqlalchemy import table as bare_table
from sqlalchemy.types import TypeEngine

from match_server.db.fast_sql import insert_many
from shared.errors import Damaged

_ROWS = 500  # read at a time
_BATCH_CHARACTERS = 4 * 1024 * 1024  # of text in one batch, where it has more than one row
_BYTES = "the bytes of rows of {!r} are too few or too many"
Kind = Literal["number", "fraction", "text", "bytes", "json", "time", "date"]
Row = list[Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one table. `payload` holds the bytes of all columns, the rows hold their lengths."""

    rows: list[Row]
    payload: bytes


class TableRows:
    """Reads and writes the rows of one table."""

    def __init__(self, table: Table, columns: Sequence[str] | None = None) -> None:
        """Raises Damaged if the table does not have exactly these `columns`."""
        names = [column.name for column in table.columns]
        if columns is not None and sorted(columns) != sorted(names):
            raise Damaged(f"the file's columns of {table.name!r} are not those of its migration")
        self.columns = list(columns or names)
        self._kinds = [_kind(table.c[name].type) for name in self.columns]
        self._key = [column.name for column in table.primary_key.columns]
        # The types of the database, not of our code; JSON as text.
        types = [
            Text() if kind == "json" else _base(table.c[name].type)
            for name, kind in zip(self.columns, self._kinds, strict=True)
        ]
        self._table = bare_table(table.name, *map(column, self.columns, types))

    def read(self, connection: Connection) -> Iterator[Batch]:
        """All rows in the order of the primary key, in batches."""
        columns = [
            cast(self._table.c[name], Text) if kind == "json" else self._table.c[name]
            for name, kind in zip(self.columns, self._kinds, strict=True)
        ]
        ordered = select(*columns).order_by(*(self._table.c[name] for name in self._key))
        result = connection.execution_options(yield_per=_ROWS).execute(ordered)
        for rows in result.partitions():
            packed: list[Row] = []
            payload: list[bytes] = []
            characters = 0
            for row in rows:
                size = sum(len(value) for value in row if isinstance(value, str))
                if packed and characters + size > _BATCH_CHARACTERS:
                    yield Batch(packed, b"".join(payload))
                    packed, payload, characters = [], [], 0
                characters += size
                packed.append(
                    [
                        _packed(kind, value, payload)
                        for kind, value in zip(self._kinds, row, strict=True)
                    ]
                )
            yield Batch(packed, b"".join(payload))

    def write(self, connection: Connection, batch: Batch) -> None:
        """Insert rows. Raises Damaged if they do not fit the table."""
        at = 0
        rows: list[tuple[Any, ...]] = []
        for row in batch.rows:
            if len(row) != len(self.columns):
                raise Damaged(f"a row of {self._table.name!r} has a wrong number of values")
            values: list[Any] = []
            for kind, value in zip(self._kinds, row, strict=True):
                if not _fits(kind, value):
                    raise Damaged(f"a row of {self._table.name!r} has a value of a wrong type")
                if kind == "bytes" and value is not None:
                    if not 0 <= value <= len(batch.payload) - at:
                        raise Damaged(_BYTES.format(self._table.name))
                    values.append(batch.payload[at : at + value])
                    at += value
                else:
                    values.append(_unpacked(kind, value))
            rows.append(tuple(values))
        if at != len(batch.payload):
            raise Damaged(_BYTES.format(self._table.name))
        insert_many(connection, self._table, self.columns, rows, {})

    def count(self, connection: Connection) -> int:
        return int(connection.scalar(select(func.count()).select_from(self._table)) or 0)


def counted(connection: Connection, metadata: MetaData) -> dict[str, int]:
    """The number of rows of each table."""
    return {table.name: TableRows(table).count(connection) for table in metadata.sorted_tables}


def highest_numbers(connection: Connection, metadata: MetaData) -> dict[str, tuple[str, int]]:
    """By table, the column that the database numbers, and the highest number that it assigned."""
    highest: dict[str, tuple[str, int]] = {}
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is not None:
            held = int(connection.scalar(select(func.max(column))) or 0)
            highest[table.name] = (
                column.name,
                max(held, _last_number(connection, table.name, column.name)),
            )
    return highest


def continue_numbers(connection: Connection, highest: Mapping[str, tuple[str, int]]) -> None:
    """Let the database assign only higher numbers, so that none is used twice."""
    for table, (numbered, number) in highest.items():
        names = {"table": table, "column": numbered, "number": number}
        if connection.dialect.name == "postgresql":
            connection.execute(_SET_SEQUENCE, names)
        elif connection.scalar(_SQLITE_NUMBERS):
            connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :table"), names)
            connection.execute(text("INSERT INTO sqlite_sequence VALUES (:table, :number)"), names)


_SET_SEQUENCE = text(
    "SELECT setval(pg_get_serial_sequence(quote_ident(:table), :column), "
    "greatest(:number, 1), :number > 0)"
)
_SQLITE_NUMBERS = text("SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'")


def _last_number(connection: Connection, table: str, column: str) -> int:
    if connection.dialect.name == "postgresql":
        sequence = connection.scalar(
            text("SELECT pg_get_serial_sequence(quote_ident(:table), :column)"),
            {"table": table, "column": column},
        )
        if sequence is None:
            return 0
        query = f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}"  # noqa: S608
        return int(connection.scalar(text(query)) or 0)
    if not connection.scalar(_SQLITE_NUMBERS):
        return 0
    query = "SELECT seq FROM sqlite_sequence WHERE name = :table"
    return int(connection.scalar(text(query), {"table": table}) or 0)


def _base(of: TypeEngine[Any]) -> TypeEngine[Any]:
    """The type of a column in the database, without the conversions of our code."""
    while isinstance(of, TypeDecorator):
        of = of.impl_instance
    return of


def _kind(of: TypeEngine[Any]) -> Kind:
    base = _base(of)
    for known, kind in _KINDS:
        if isinstance(base, known):
            return kind
    raise TypeError(f"a column of type {base!r} cannot be exported: add it to backup/rows.py")


_KINDS: tuple[tuple[type[TypeEngine[Any]], Kind], ...] = (
    (JSON, "json"),
    (LargeBinary, "bytes"),
    (DateTime, "time"),
    (Date, "date"),
    (Boolean, "number"),
    (Integer, "number"),
    (Float, "fraction"),
    (String, "text"),
)
_AS_IT_IS: frozenset[Kind] = frozenset({"number", "fraction", "text", "json"})
_JSON_TYPES: dict[Kind, type | tuple[type, ...]] = {  # of the value in a row
    "number": int,
    "fraction": (int, float),
    "text": str,
    "bytes": int,  # their length
    "json": str,
    "time": str,
    "date": str,
}


def _packed(kind: Kind, value: Any, payload: list[bytes]) -> Any:
    if value is None or kind in _AS_IT_IS:
        return value
    if kind == "bytes":
        payload.append(bytes(value))
        return len(value)
    if kind == "time":
        utc = value if value.tzinfo is None else value.astimezone(UTC)
        return utc.replace(tzinfo=None).isoformat()
    return value.isoformat()


def _fits(kind: Kind, value: Any) -> bool:
    return value is None or isinstance(value, _JSON_TYPES[kind])


def _unpacked(kind: Kind, value: Any) -> Any:
    if value is None or kind in _AS_IT_IS:
        return value
    if kind == "time":
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return date.fromisoformat(value)
