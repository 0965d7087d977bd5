"""How long what the cameras saw is kept."""

from pydantic import Field

from match_server.schemas.base import ApiModel


class Retention(ApiModel):
    """Days, where a collection differs from the server's settings. 0 of the first three: never."""

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
    """What went from one collection, or would go."""

    collection: str | None = Field(description="null: sightings of a collection that is gone.")
    events: int = 0
    unknown: int = Field(default=0, description="Of these, sightings that nobody matched.")
    snapshots: int = 0
    probes: int = 0
    persons: int = 0

    @property
    def anything(self) -> bool:
        return bool(self.events or self.snapshots or self.probes or self.persons)
