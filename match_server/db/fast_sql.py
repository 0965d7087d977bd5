"""Statements that are compiled once and run in the driver's own words.

A session and its results cost ten to fifty times what SQLite takes for a row found by its key.
Where a request does little else, that is most of its time.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, LargeBinary, Select, Table, TableClause, insert
from sqlalchemy.exc import DBAPIError

Statement = Select[*tuple[Any, ...]]
Parameter = str | int | Sequence[int] | Sequence[str]


class Prepared:
    """One select in one database's words, for lists of up to one length. Thread-safe.

    Parameters are texts, whole numbers, and lists of these for an `IN` of an expanding parameter.

    SQLite's driver lets go of the interpreter's lock at each row. Where many threads search, each
    time another one takes it: with 32, two hundred changes of thread for one search. So what is
    asked with a list comes as one row.
    """

    def __init__(
        self, statement: Statement, dialect: Dialect, params: Mapping[str, Parameter]
    ) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        state = compiled.construct_expanded_state(params)
        self._text: str = state.statement
        self._in_one_row = bool(state.parameter_expansion) and _fits_one_row(statement, dialect)
        if self._in_one_row:
            names = ", ".join(f"c{place}" for place in range(len(statement.selected_columns)))
            self._text = (
                f"WITH found({names}) AS ({self._text}) "  # noqa: S608  # names made here
                f"SELECT json_group_array(json_array({names})) FROM found"
            )
        self._expansion: Mapping[str, Sequence[str]] = state.parameter_expansion
        self._order: Sequence[str] | None = state.positiontup  # None: the driver takes names
        reading = (
            column.type.dialect_impl(dialect).result_processor(dialect, None)
            for column in statement.selected_columns
        )
        self._reading = [(place, read) for place, read in enumerate(reading) if read is not None]

    def rows(self, cursor: Any, params: Mapping[str, Parameter]) -> list[tuple[Any, ...]]:
        """Run it on a cursor of the driver, with lists as long as those it was made with."""
        values: dict[str, Any] = {}
        for name, value in params.items():
            if isinstance(value, str | int):
                values[name] = value
            else:
                values.update(zip(self._expansion[name], value, strict=True))
        given = values if self._order is None else [values[name] for name in self._order]
        cursor.execute(self._text, given)
        if self._in_one_row:
            rows: list[list[Any]] = json.loads(cursor.fetchall()[0][0])
        else:
            rows = [list(row) for row in cursor.fetchall()]
        for row in rows:
            for place, read in self._reading:
                row[place] = read(row[place])
        return list(map(tuple, rows))


def _fits_one_row(statement: Statement, dialect: Dialect) -> bool:
    """Whether SQLite writes all columns as JSON and loses nothing: no bytes, no fractions."""
    types: Iterable[Any] = (column.type for column in statement.selected_columns)
    kinds = {getattr(one, "impl_instance", one).python_type for one in types}
    return dialect.name == "sqlite" and kinds <= {bool, int, str, datetime}


def insert_many(
    connection: Connection,
    table: Table | TableClause,
    columns: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
    same: Mapping[str, Any],
) -> None:
    """Insert rows, given as the values of `columns`; `same` holds what they have in common.

    What a column means is worked out once, not for each row: SQLAlchemy's own way takes longer for
    a row than SQLite does.
    """
    dialect = connection.dialect
    names = [*columns, *same]
    binds = [
        # Bytes are what both drivers take.
        None
        if isinstance(table.c[one].type, LargeBinary)
        else table.c[one].type.dialect_impl(dialect).bind_processor(dialect)
        for one in names
    ]
    given = zip(same.values(), binds[len(columns) :], strict=True)
    common = tuple(value if bind is None else bind(value) for value, bind in given)
    own = [(place, bind) for place, bind in enumerate(binds[: len(columns)]) if bind is not None]
    whole: Iterable[tuple[Any, ...]] = (row + common for row in rows)
    if own:
        whole = (_bound(row, own) for row in whole)
    if dialect.name == "postgresql":
        _copy(connection, table, names, whole)
        return
    compiled: Any = insert(table).compile(dialect=dialect, column_keys=names)
    values = list(map(itemgetter(*map(names.index, compiled.positiontup)), whole))
    if values:
        connection.exec_driver_sql(str(compiled), values)


def _copy(
    connection: Connection,
    table: Table | TableClause,
    names: Sequence[str],
    rows: Iterable[tuple[Any, ...]],
) -> None:
    """Insert rows by PostgreSQL's COPY, with the errors that an INSERT has."""
    quote = connection.dialect.identifier_preparer.quote
    text = f"COPY {quote(table.name)} ({', '.join(map(quote, names))}) FROM STDIN"
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
