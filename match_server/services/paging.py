"""Lists in pages: by page number, or after the last row of the page before.

The second way (`after`) misses and repeats no row when rows are deleted meanwhile.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement, UnaryExpression
from sqlalchemy.sql.operators import desc_op

from match_server.db.tables.base import UtcTime
from match_server.schemas.base import Page, Paging
from shared.errors import MalformedInput

Row = TypeVar("Row")
Item = TypeVar("Item")

_MOST = 2**63


def page_of(
    session: Session,
    query: Select[Row],
    paging: Paging,
    *order: Any,
    views: Callable[[Sequence[Row]], list[Item]],
) -> Page[Item]:
    """One page of the rows (first column) of a query, as `views` shows them to clients.

    `order` ends with a unique column; no column of it may be NULL.
    """
    return page_of_rows(
        session, query, paging, *order, views=lambda rows: views([row[0] for row in rows])
    )


def page_of_rows(
    session: Session,
    query: Any,
    paging: Paging,
    *order: Any,
    views: Callable[[Sequence[Any]], list[Item]],
) -> Page[Item]:
    """As `page_of`, but `views` gets rows with all columns, and those of `order` after them."""
    keys = [key.element if isinstance(key, UnaryExpression) else key for key in order]
    total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery()))
    selected = query.add_columns(*keys).order_by(*order).limit(paging.size)
    if paging.after is not None:
        selected = selected.where(_follows(order, keys, _values(keys, paging.after)))
    else:
        selected = selected.offset(paging.offset)
    rows = session.execute(selected).all()
    full = len(rows) == paging.size
    return Page(
        items=views(rows),
        page=paging.page,
        size=paging.size,
        total=int(total or 0),
        next=_cursor(rows[-1][-len(keys) :]) if rows and full else None,
    )


def each(view: Callable[[Row], Item]) -> Callable[[Sequence[Row]], list[Item]]:
    """Makes the `views` of a page from a function that shows a single row."""
    return lambda rows: [view(row) for row in rows]


def _follows(order: Sequence[Any], keys: Sequence[Any], last: Sequence[Any]) -> ColumnElement[bool]:
    """The condition for rows that come after the row with these keys."""
    alternatives = []
    for place, (ordered, key) in enumerate(zip(order, keys, strict=True)):
        equal = [keys[before] == last[before] for before in range(place)]
        falls = isinstance(ordered, UnaryExpression) and ordered.modifier is desc_op
        alternatives.append(and_(*equal, key < last[place] if falls else key > last[place]))
    return or_(*alternatives)


def _cursor(values: Sequence[Any]) -> str:
    texts = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    return base64.urlsafe_b64encode(json.dumps(texts).encode()).decode().rstrip("=")


def _values(keys: Sequence[Any], cursor: str) -> list[Any]:
    """The keys that `_cursor` wrote into this text. Raises MalformedInput."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        texts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(texts, list):
            raise TypeError("a list of keys")
        return [_value(key, text) for key, text in zip(keys, texts, strict=True)]
    except (binascii.Error, TypeError, ValueError):
        raise MalformedInput("after: this is not the `next` of a page of this list") from None


def _value(key: Any, text: object) -> Any:
    kind = datetime if isinstance(key.type, UtcTime) else key.type.python_type
    if kind is datetime and isinstance(text, str):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment
    elif kind is int and type(text) is int and abs(text) < _MOST:
        return text
    elif kind is str and isinstance(text, str) and "\0" not in text:
        text.encode()  # no half of a character
        return text
    raise ValueError("not of the type of this key")
