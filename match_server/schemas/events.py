"""Probes and their results, events and presence."""

from typing import Literal, Self

from pydantic import Field

from match_server.schemas.base import ApiModel, Decision, Moment, Name, Paging
from match_server.schemas.persons import PersonName
from match_server.schemas.search import CandidateView
from shared.errors import MusterError
from shared.wire.messages import ProbeReceipt
from shared.wire.quality import Quality


class LocalView(ApiModel):
    """The decision of the box itself, before it asked this server, whose decision counts."""

    decision: Decision
    person: PersonName | None = Field(description="null when unknown, ambiguous or erased.")
    similarity: float | None = Field(description="Of the best candidate that the box held.")
    agrees: bool = Field(description="Whether the server decided the same, for the same person.")


class EventView(ApiModel):
    """One sighting: a person before one camera, as the best probe so far shows it.

    Tracks of the same person before the same camera, no more than the policy's `sighting_s` apart,
    are one sighting. Each track of an unknown person is a sighting of its own.
    """

    id: str
    revision: int = Field(description="Grows with every write to any event; the stream's id.")
    collection: str | None
    device: str
    camera: str
    track_id: str = Field(description="Track of the shown probe.")
    tracks: int = Field(description="Tracks that this sighting is made of.")
    merged_into: str | None = Field(description="Id of the sighting that this one was merged into.")
    decision: Decision
    person: PersonName | None = Field(description="null when unknown, ambiguous or erased.")
    person_erased: bool = Field(description="The person was identified, and erased since.")
    similarity: float | None = Field(description="Of the best candidate.")
    threshold: float | None = Field(
        default=None, description="The similarity from which it was identified, at that moment."
    )
    shots: int = Field(
        default=1,
        description="Shots of the track that candidates, similarity and decision rest on: their "
        "templates were fused. 1: a single shot was searched.",
    )
    candidates: list[CandidateView]
    quality: Quality
    liveness: float | None
    live: bool = Field(description="It arrived in time to act on. Never open a door when false.")
    captured_at: Moment = Field(description="When the shown probe was taken, by the box's clock.")
    received_at: Moment
    expires_at: Moment = Field(
        description="Do not act on the event after this time: the latest of the probes that "
        "arrived in time."
    )
    first_captured_at: Moment = Field(
        description="By the box's clock, but never later than it was received."
    )
    last_captured_at: Moment = Field(description="As `first_captured_at`, of the newest probe.")
    probes: int = Field(description="Probes of this sighting so far.")
    box: tuple[float, float, float, float] = Field(description="x1 y1 x2 y2, pixels of the frame")
    frame_size: tuple[int, int] = Field(description="width, height")
    snapshot: str | None = Field(description="Path of the thumbnail.")
    review: Literal["confirmed", "wrong", "person", "discard", "like"] | None = Field(
        default=None,
        description="An operator's decision, which overrides that of the probes: on this sighting, "
        "or (`like`) on a similar one. `GET /v1/events/{id}/decision` returns who decided.",
    )
    local: LocalView | None = Field(
        default=None, description="What the box had decided by itself; null: nothing."
    )


class ProbeResult(ProbeReceipt):
    """The result of a probe, and its sighting as it is now."""

    event: EventView | None = None

    @classmethod
    def refused(cls, probe_id: str, error: MusterError) -> Self:
        """The result of a probe that cannot be stored."""
        return cls(probe_id=probe_id, status="refused", code=error.code, message=error.message)


def probe_id_of(message: object) -> str:
    """The id in a message that is not a valid probe, if there is a readable one; else empty."""
    probe_id = message.get("probe_id") if isinstance(message, dict) else None
    return probe_id[:80] if isinstance(probe_id, str) and probe_id.isprintable() else ""


class ProbeResults(ApiModel):
    probes: list[ProbeResult]


class _EventFilters(ApiModel):
    camera: Name | None = None
    person: Name | None = Field(
        default=None,
        description="Id of a person; give `collection` too where several have one of that id.",
    )
    collection: Name | None = Field(default=None, description="Name of a collection.")
    decision: Decision | None = None


class EventQuery(Paging, _EventFilters):
    since: Moment | None = Field(default=None, description="Received then or later, RFC 3339.")
    until: Moment | None = Field(default=None, description="Received before then, RFC 3339.")


class StreamQuery(_EventFilters):
    """Filters of the live stream."""


class SnapshotQuery(ApiModel):
    revision: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="Tells a browser that the thumbnail may have changed.",
    )


class TracksTaken(ApiModel):
    """The number of track messages that were used."""

    taken: int
    late: int = Field(description="Ignored: their time is too far from now.")


class CameraPresence(ApiModel):
    """Who is before one camera now."""

    device: str
    site: str | None
    camera: str
    online: bool = Field(
        description="False: the box was silent lately, or reported that the camera has no pictures."
    )
    in_view: int = Field(description="Faces in view.")
    persons: list[PersonName] = Field(description="Those of them who were identified.")
    unknown: int = Field(description="Those who are not enrolled, as a search decided.")
    undecided: int = Field(description="The others: no search has decided yet.")
    sightings: list[str] = Field(description="The sightings of those in view, newest first.")


class Presences(ApiModel):
    items: list[CameraPresence]
