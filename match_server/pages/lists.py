"""What the pages with lists share: the page number, and the links to other pages of a list."""

from collections.abc import Callable
from urllib.parse import urlencode

from flask import request

from match_server.container import Services
from match_server.schemas.collections import CollectionQuery

_LAST_PAGE = 1_000_000
_COLLECTIONS = 100


def page_number() -> int:
    """Returns the page of the list that the request names; 1 where it names none."""
    return min(max(request.args.get("page", default=1, type=int), 1), _LAST_PAGE)


def page_count(total: int, size: int) -> int:
    return -(-total // size)


def page_links(query: dict[str, str]) -> Callable[[int], str]:
    """Returns a function that makes the link to another page of the list with this query."""
    kept = {name: value for name, value in query.items() if value}
    return lambda number: f"?{urlencode({**kept, 'page': number})}"


def collection_names(services: Services) -> list[str]:
    page = services.collections.page(CollectionQuery(size=_COLLECTIONS))
    return [collection.name for collection in page.items]
