"""A collection as a search needs it: read with one prepared statement, without its metadata."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import aliased

from match_server.db.database import Database, Reader
from match_server.db.tables import Calibration, Collection, Device
from match_server.schemas.collections import Policy, stored_policy
from match_server.services.revision import Revision, RevisionCache
from shared.errors import CollectionUnavailable, NotFound


@dataclass(frozen=True, slots=True)
class CollectionRef:
    """A collection as it was when it was read.

    Two are equal when a search of one has the result of a search of the other; the counts of
    templates and persons may differ.
    """

    number: int
    name: str
    model_id: str
    dimension: int
    generation: int
    encrypted: bool
    created_at: datetime
    calibration: int | None  # number of the adopted calibration
    templates: int = field(compare=False)
    persons: int = field(compare=False)
    policy: Policy

    @property
    def templates_a_person(self) -> float:
        """Enrolled templates of a person, on average."""
        return self.templates / max(self.persons, 1)


_CALIBRATION = (
    select(func.max(Calibration.number))
    .where(
        Calibration.collection_number == Collection.number,
        Calibration.model_id == Collection.model_id,
        Calibration.retired_at.is_(None),
    )
    .correlate(Collection)
    .scalar_subquery()
)
_COLUMNS = (
    Collection.number,
    Collection.name,
    Collection.model_id,
    Collection.dimension,
    Collection.generation,
    Collection.encrypted,
    Collection.created_at,
    _CALIBRATION,
    Collection.template_count,
    Collection.person_count,
    Collection.policy,
)
_BY_NAME = select(*_COLUMNS).where(Collection.name == bindparam("name"))

_DEFAULT = aliased(Collection)
_OF_DEVICE = select(*_COLUMNS).where(
    Collection.number
    == func.coalesce(
        select(Device.collection_number)
        .where(Device.name == bindparam("device"))
        .scalar_subquery(),
        select(_DEFAULT.number).where(_DEFAULT.name == bindparam("default")).scalar_subquery(),
    )
)


class CollectionCache:
    """The collections of this process's searches, read again when the revision has changed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known = RevisionCache[CollectionRef]()

    def named(self, name: str, at: Revision) -> CollectionRef:
        """The collection of that name at a revision or later. Raises NotFound."""
        known = self._known.at(at)
        collection = known.get(name)
        if collection is None:
            collection = known[name] = collection_ref(self._database, name)
        return collection


def collection_ref(reader: Reader, name: str) -> CollectionRef:
    """The collection of that name, as it is now. Raises NotFound when there is none."""
    for row in reader.execute(_BY_NAME, {"name": name}):
        return _ref(row)
    raise NotFound(f"there is no collection {name!r}")


def collection_ref_of_device(reader: Reader, device: str, default: str) -> CollectionRef:
    """The collection that a device's probes search: its own, else the collection named `default`.

    Raises CollectionUnavailable when that does not exist: probes wait until it exists again.
    """
    for row in reader.execute(_OF_DEVICE, {"device": device, "default": default}):
        return _ref(row)
    raise CollectionUnavailable(
        f"probes search the collection {default!r}, which does not exist: "
        "create it, or name another in the settings"
    )


def _ref(row: Iterable[Any]) -> CollectionRef:
    *values, policy = row
    return CollectionRef(*[*values, stored_policy(policy)])
