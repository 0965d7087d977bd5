"""Statements that are compiled once and run on a cursor of the driver.

A session and its results cost ten to fifty times as much as SQLite needs to find a row by its key.
That is most of the time of a small request.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain, islice, repeat
from operator import add
from typing import Any

from sqlalchemy import Connection, Dialect, LargeBinary, Select, Table, TableClause
from sqlalchemy.exc import DBAPIError

Statement = Select[*tuple[Any, ...]]
_MAX_PARAMETERS = 999  # of a statement, for every version of SQLite

Parameter = str | int | Sequence[int] | Sequence[str]


class Prepared:
    """One select, compiled for one database and for lists of one length. Thread-safe.

    Parameters are texts, whole numbers, and lists of these for `IN` (an expanding parameter).

    The driver of SQLite releases the interpreter's lock at each row. With 32 threads that search,
    this cost two hundred thread switches in one search. So a select with a list returns its rows
    as one row of JSON.
    """

    def __init__(
        self, statement: Statement, dialect: Dialect, params: Mapping[str, Parameter]
    ) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        state = compiled.construct_expanded_state(params)
        self._text: str = state.statement
        self._as_json = bool(state.parameter_expansion) and _fits_json(statement, dialect)
        if self._as_json:
            names = ", ".join(f"c{place}" for place in range(len(statement.selected_columns)))
            self._text = (
                f"WITH result({names}) AS ({self._text}) "  # noqa: S608  # names c0, c1 …
                f"SELECT json_group_array(json_array({names})) FROM result"
            )
        self._expansion: Mapping[str, Sequence[str]] = state.parameter_expansion
        self._order: Sequence[str] | None = state.positiontup  # None: the driver takes names
        reading = (
            column.type.dialect_impl(dialect).result_processor(dialect, None)
            for column in statement.selected_columns
        )
        self._reading = [(place, read) for place, read in enumerate(reading) if read is not None]

    def rows(self, cursor: Any, params: Mapping[str, Parameter]) -> list[tuple[Any, ...]]:
        """Run the select on a cursor of the driver. Lists must have the first length."""
        values: dict[str, Any] = {}
        for name, value in params.items():
            if isinstance(value, str | int):
                values[name] = value
            else:
                values.update(zip(self._expansion[name], value, strict=True))
        arguments = values if self._order is None else [values[name] for name in self._order]
        cursor.execute(self._text, arguments)
        if self._as_json:
            rows: list[list[Any]] = json.loads(cursor.fetchall()[0][0])
        else:
            rows = [list(row) for row in cursor.fetchall()]
        for row in rows:
            for place, read in self._reading:
                row[place] = read(row[place])
        return list(map(tuple, rows))


def _fits_json(statement: Statement, dialect: Dialect) -> bool:
    """Whether SQLite can write all columns as JSON without loss: no bytes, no fractions."""
    types: Iterable[Any] = (column.type for column in statement.selected_columns)
    kinds = {getattr(kind, "impl_instance", kind).python_type for kind in types}
    return dialect.name == "sqlite" and kinds <= {bool, int, str, datetime}


def insert_many(
    connection: Connection,
    table: Table | TableClause,
    columns: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
    same: Mapping[str, Any],
) -> None:
    """Insert rows, each with the values of `columns`; `same` holds values that all rows share.

    The conversion of each column is looked up once, not for each row: SQLAlchemy's own insert takes
    longer for a row than SQLite does.
    """
    dialect = connection.dialect
    names = [*columns, *same]
    binds = [
        # Both drivers take bytes as they are.
        None
        if isinstance(table.c[name].type, LargeBinary)
        else table.c[name].type.dialect_impl(dialect).bind_processor(dialect)
        for name in names
    ]
    shared = zip(same.values(), binds[len(columns) :], strict=True)
    common = tuple(value if bind is None else bind(value) for value, bind in shared)
    own = [(place, bind) for place, bind in enumerate(binds[: len(columns)]) if bind is not None]
    if own:
        rows = (_bound(row, own) for row in rows)
    whole = map(add, rows, repeat(common))
    quote = dialect.identifier_preparer.quote
    target = f"{quote(table.name)} ({', '.join(map(quote, names))})"
    if dialect.name == "postgresql":
        _copy(connection, f"COPY {target} FROM STDIN", whole)
    else:
        _insert(connection, target, len(names), whole)


def _insert(
    connection: Connection, target: str, width: int, rows: Iterator[tuple[Any, ...]]
) -> None:
    """Insert many rows with each statement: SQLite takes half as long as for one at a time."""
    row_text = f"({', '.join('?' * width)})"
    while portion := list(islice(rows, max(_MAX_PARAMETERS // width, 1))):
        text = f"INSERT INTO {target} VALUES {', '.join([row_text] * len(portion))}"  # noqa: S608
        connection.exec_driver_sql(text, tuple(chain.from_iterable(portion)))


def _copy(connection: Connection, text: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert rows by COPY of PostgreSQL. Raises the same errors as an INSERT."""
    driver: Any = connection.connection.driver_connection
    dbapi: Any = connection.dialect.loaded_dbapi
    try:
        with driver.cursor() as cursor, cursor.copy(text) as copy:
            for row in rows:
                copy.write_row(row)
    except dbapi.Error as error:
        raise DBAPIError.instance(
            text,
            None,
            error,
            dbapi.Error,
            hide_parameters=True,
            connection_invalidated=driver.closed,
            dialect=connection.dialect,
        ) from error


def _bound(row: tuple[Any, ...], own: Sequence[tuple[int, Any]]) -> tuple[Any, ...]:
    values = list(row)
    for place, bind in own:
        values[place] = bind(values[place])
    return tuple(values)
