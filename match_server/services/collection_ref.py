"""A collection as a search needs it: read in one lean step, without its metadata."""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import aliased

from match_server.db.database import Reader
from match_server.db.tables import Calibration, Collection, Device, Json
from shared.errors import CollectionUnavailable, NotFound


@dataclass(frozen=True, slots=True)
class Scope:
    """What is searched, and by which policy it is decided. Fields as in the table.

    Scopes are equal when a search of one is a search of the other; counts may differ.
    """

    number: int
    name: str
    model_id: str
    dimension: int
    generation: int
    encrypted: bool
    policy: Json
    created_at: datetime
    calibration: int | None  # number of the one in use
    templates: int = field(compare=False)
    persons: int = field(compare=False)


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
    Collection.policy,
    Collection.created_at,
    _CALIBRATION,
    Collection.template_count,
    Collection.person_count,
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


def scope_named(reader: Reader, name: str) -> Scope:
    """The collection of that name, as it is now. Raises NotFound when there is none."""
    for row in reader.execute(_BY_NAME, {"name": name}):
        return Scope(*row)
    raise NotFound(f"there is no collection {name!r}")


def scope_of_device(reader: Reader, device: str, default: str) -> Scope:
    """The collection that a device's probes search: its own, else the one named `default`.

    Raises CollectionUnavailable when that is gone: probes wait until it is there again.
    """
    for row in reader.execute(_OF_DEVICE, {"device": device, "default": default}):
        return Scope(*row)
    raise CollectionUnavailable(
        f"probes search the collection {default!r}, which is gone: "
        "create it, or name another in the settings"
    )
