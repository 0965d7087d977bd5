"""Statements that are compiled once and run in the driver's own words.

A session and its results cost ten to fifty times what SQLite takes for a row found by its key.
Where a request does little else, that is most of its time.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Dialect, LargeBinary, Select, Table, insert

Statement = Select[*tuple[Any, ...]]
Parameter = str | int | Sequence[int] | Sequence[str]


class Prepared:
    """One select in one database's words, for lists of up to one length. Thread-safe.

    Parameters are texts, whole numbers, and lists of these for an `IN` of an expanding parameter.
    """

    def __init__(
        self, statement: Statement, dialect: Dialect, params: Mapping[str, Parameter]
    ) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        state = compiled.construct_expanded_state(params)
        self._text: str = state.statement
        self._expansion: Mapping[str, Sequence[str]] = state.parameter_expansion
        self._order: Sequence[str] | None = state.positiontup  # None: the driver takes names
        self._reading = [
            column.type.dialect_impl(dialect).result_processor(dialect, None)
            for column in statement.selected_columns
        ]

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
        rows = cursor.fetchall()
        if not any(self._reading):
            return list(rows)
        return [
            tuple(
                value if read is None else read(value)
                for read, value in zip(self._reading, row, strict=True)
            )
            for row in rows
        ]


def insert_many(
    connection: Connection,
    table: Table,
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
    compiled: Any = insert(table).compile(dialect=dialect, column_keys=names)
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
    order: Sequence[str] | None = compiled.positiontup
    if order is None:  # the driver takes names
        values: list[Any] = [dict(zip(names, row, strict=True)) for row in whole]
    else:
        values = list(map(itemgetter(*map(names.index, order)), whole))
    if values:
        connection.exec_driver_sql(str(compiled), values)


def _bound(row: tuple[Any, ...], own: Sequence[tuple[int, Any]]) -> tuple[Any, ...]:
    values = list(row)
    for place, bind in own:
        values[place] = bind(values[place])
    return tuple(values)
