"""How long sightings and persons are kept."""

from pydantic import Field

from match_server.schemas.base import ApiModel


class Retention(ApiModel):
    """Days, if not as in the server's settings. 0 in the first three: never deleted."""

    events_days: float | None = Field(
        default=None, ge=0, le=36_500, description="Sightings, with their thumbnails and probes."
    )
    snapshots_days: float | None = Field(
        default=None, ge=0, le=36_500, description="Thumbnails of sightings."
    )
    unknown_days: float | None = Field(
        default=None, ge=0, le=36_500, description="Sightings of faces that nobody matched."
    )
    erase_expired_after_days: float | None = Field(
        default=None, ge=0, le=36_500, description="Persons, after they have expired."
    )


class Swept(ApiModel):
    """What was deleted from a collection, or would be."""

    collection: str | None = Field(description="null: sightings of a collection that is gone.")
    events: int = 0
    unknown: int = Field(default=0, description="Of these, sightings that nobody matched.")
    snapshots: int = 0
    probes: int = 0
    persons: int = 0

    @property
    def anything(self) -> bool:
        return bool(self.events or self.snapshots or self.probes or self.persons)
