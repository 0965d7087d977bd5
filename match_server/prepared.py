"""A select that is compiled once and run on the driver's own connection.

A session and its results cost ten to fifty times what SQLite takes for a row found by its key.
Where a request does little else, that is most of its time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Dialect, Select

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
