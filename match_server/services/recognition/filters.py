"""Filters of a search: persons in groups, and persons whose fields match conditions.

The values of metadata are also stored in `person_fields`, one row for each value, so that a
condition is an indexed comparison on every database.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Select, delete, insert, or_, select
from sqlalchemy.orm import Session

from match_server.db.tables import Collection, Group, Membership, Person, PersonField, Template
from match_server.schemas.selection import FIELD_CHARACTERS, PREFIX, Condition, Scalar
from match_server.services.collection_ref import CollectionRef

_COLUMNS: dict[str, Any] = {"name": Person.name, "external_id": Person.external_id, "id": Person.id}


def keep_fields(session: Session, person: Person) -> None:
    """Update `person_fields` from the metadata of a stored person."""
    session.execute(delete(PersonField).where(PersonField.person_number == person.number))
    rows = field_rows(person.number, person.meta)
    if rows:
        session.execute(insert(PersonField), rows)


def field_rows(person_number: int, metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of `person_fields` for one person's metadata."""
    return [
        {
            "person_number": person_number,
            "place": place,
            "field": field,
            "text": value[:FIELD_CHARACTERS] if isinstance(value, str) else None,
            "number": None if isinstance(value, str | bool) else value,
            "truth": value if isinstance(value, bool) else None,
        }
        for place, (field, value) in enumerate(_scalars("", metadata))
    ]


def among(
    session: Session,
    collection: Collection | CollectionRef,
    groups: Sequence[Group] | None,
    conditions: Sequence[Condition],
) -> NDArray[np.uint64] | None:
    """Numbers (n,) of the templates that are searched, ascending; None: all of the collection.

    They are those of persons who are in one of the groups, if there are groups, and who match
    every condition.
    """
    if groups is None and not conditions:
        return None
    persons = select(Person.number).where(Person.collection_number == collection.number)
    if groups is not None:
        numbers = [group.number for group in groups]
        members = select(Membership.person_number).where(Membership.group_number.in_(numbers))
        persons = persons.where(Person.number.in_(members))
    for condition in conditions:
        persons = persons.where(fits(condition))
    templates = session.scalars(
        select(Template.number)
        .where(Template.collection_number == collection.number, Template.person_number.in_(persons))
        .order_by(Template.number)
    )
    return np.fromiter(templates, dtype=np.uint64)


def fits(condition: Condition) -> ColumnElement[bool]:
    """The condition on a row of `persons`."""
    values = condition.values
    if not condition.field.startswith(PREFIX):
        column = _COLUMNS[condition.field]
        if condition.op == "nin":
            return column.is_(None) | column.not_in(values)  # type: ignore[no-any-return]
        return _compared(column, condition.op, values)
    field = condition.field.removeprefix(PREFIX)
    op = "in" if condition.op == "nin" else condition.op
    kinds = [_compared(column, op, chosen) for column, chosen in _by_kind(values) if chosen]
    holders: Select[int] = select(PersonField.person_number).where(
        PersonField.field == field, or_(*kinds)
    )
    has = Person.number.in_(holders)
    return ~has if condition.op == "nin" else has


def _compared(column: Any, op: str, values: Sequence[Scalar]) -> ColumnElement[bool]:
    if op == "gte":
        return column >= values[0]  # type: ignore[no-any-return]
    if op == "lte":
        return column <= values[0]  # type: ignore[no-any-return]
    return column.in_(values)  # type: ignore[no-any-return]


def _by_kind(values: Sequence[Scalar]) -> Iterator[tuple[Any, list[Scalar]]]:
    """The values by the column that holds their kind: "1", 1 and true are three values."""
    yield PersonField.text, [value for value in values if isinstance(value, str)]
    yield PersonField.truth, [value for value in values if isinstance(value, bool)]
    yield PersonField.number, [value for value in values if not isinstance(value, str | bool)]


def _scalars(path: str, value: Any) -> Iterator[tuple[str, str | bool | float]]:
    """Each value in metadata that a condition can compare, with its dotted path.

    Every element of a list counts; null and values with too long a path are left out.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _scalars(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _scalars(path, inner)
    elif value is not None and len(path) <= FIELD_CHARACTERS:
        if isinstance(value, str | bool):
            yield path, value
        elif (number := _double(value)) is not None:
            yield path, number


def _double(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all doubles
        return None
    return number if math.isfinite(number) else None
