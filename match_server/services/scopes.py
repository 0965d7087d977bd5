"""A collection as a search needs it: read in one lean step, without its counts and metadata."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, select

from match_server.database import Reader
from match_server.tables import Collection, Json
from shared.errors import NotFound


@dataclass(frozen=True, slots=True)
class Scope:
    """What is searched, and by which policy it is decided. Fields as in the table."""

    number: int
    name: str
    model_id: str
    dimension: int
    policy: Json
    created_at: datetime


_COLUMNS = (
    Collection.number,
    Collection.name,
    Collection.model_id,
    Collection.dimension,
    Collection.policy,
    Collection.created_at,
)
_BY_NAME = select(*_COLUMNS).where(Collection.name == bindparam("name"))


def scope_named(reader: Reader, name: str) -> Scope:
    """The collection of that name, as it is now. Raises NotFound when there is none."""
    for row in reader.execute(_BY_NAME, {"name": name}):
        return Scope(*row)
    raise NotFound(f"there is no collection {name!r}")
