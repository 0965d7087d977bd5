"""Lists in pages: by number, or by the key of the last row, which deleting does not move."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

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


@dataclass(frozen=True, slots=True)
class Found(Generic[Row]):
    """The rows of one page, and what the page says besides its items."""

    rows: Sequence[Row]
    paging: Paging
    total: int
    next: str | None

    def page(self, items: list[Item]) -> Page[Item]:
        """The page with these items, which stand for the rows."""
        paging = self.paging
        return Page(
            items=items, page=paging.page, size=paging.size, total=self.total, next=self.next
        )


def page_of(session: Session, query: Select[Row], paging: Paging, *order: Any) -> Found[Row]:
    """The rows (first column) of one page; `order` ends with a unique column, none may be NULL."""
    found = page_of_rows(session, query, paging, *order)
    return Found([row[0] for row in found.rows], paging, found.total, found.next)


def page_of_rows(session: Session, query: Any, paging: Paging, *order: Any) -> Found[Any]:
    """The same with all columns, which are followed by those of `order`."""
    keys = [key.element if isinstance(key, UnaryExpression) else key for key in order]
    total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery()))
    wanted = query.add_columns(*keys).order_by(*order).limit(paging.size)
    if paging.after is not None:
        wanted = wanted.where(_follows(order, keys, _values(keys, paging.after)))
    else:
        wanted = wanted.offset(paging.offset)
    rows = session.execute(wanted).all()
    whole = len(rows) == paging.size
    following = _cursor(rows[-1][-len(keys) :]) if rows and whole else None
    return Found(rows, paging, int(total or 0), following)


def _follows(order: Sequence[Any], keys: Sequence[Any], last: Sequence[Any]) -> ColumnElement[bool]:
    """Which rows come after the one with these keys."""
    alternatives = []
    for place, (ordered, key) in enumerate(zip(order, keys, strict=True)):
        equal = [keys[before] == last[before] for before in range(place)]
        falls = isinstance(ordered, UnaryExpression) and ordered.modifier is desc_op
        alternatives.append(and_(*equal, key < last[place] if falls else key > last[place]))
    return or_(*alternatives)


def _cursor(values: Sequence[Any]) -> str:
    texts = [one.isoformat() if isinstance(one, datetime) else one for one in values]
    return base64.urlsafe_b64encode(json.dumps(texts).encode()).decode().rstrip("=")


def _values(keys: Sequence[Any], cursor: str) -> list[Any]:
    """What `_cursor` was made of. Raises MalformedInput."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        texts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(texts, list):
            raise TypeError("a list of keys")
        return [_value(key, text) for key, text in zip(keys, texts, strict=True)]
    except (binascii.Error, TypeError, ValueError):
        raise MalformedInput("after: this is no `next` of a page of this list") from None


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
