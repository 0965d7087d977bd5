"""The probe that a sighting shows: the best of its probes; and how long the sighting is live."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from match_server.db.tables import Event
from match_server.schemas.base import Decision
from match_server.schemas.collections import Policy
from match_server.services.collection_ref import CollectionRef
from match_server.services.policy.candidates import Candidate
from match_server.services.policy.operating_point import OperatingPoint
from match_server.services.sightings.track_templates import SearchedShots
from match_server.services.storage.files import Kept
from shared.wire.messages import ProbeMessage

_STRENGTH: dict[str, int] = {"unknown": 0, "ambiguous": 1, "identified": 2}


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """The result of one probe's search."""

    decision: Decision
    candidates: Sequence[Candidate]  # best first
    collection: CollectionRef  # that was searched
    point: OperatingPoint  # that decided
    shots: SearchedShots  # that were searched
    received_at: datetime

    @property
    def policy(self) -> Policy:
        return self.point.policy

    @property
    def similarity(self) -> float | None:
        return self.candidates[0].similarity if self.candidates else None

    @property
    def person_number(self) -> int | None:
        return self.candidates[0].person_number if self.decision == "identified" else None


@dataclass(slots=True)
class Track:
    """One track of a sighting, with the best result of its own probes."""

    event: Event
    decision: str
    similarity: float | None
    quality_score: float


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long a client may act on a sighting's decision and person."""

    decision: str
    person_number: int | None
    live: bool
    expires_at: datetime

    @classmethod
    def of(cls, event: Event) -> "Freshness":
        return cls(event.decision, event.person_number, event.live, event.expires_at)

    def carry_over(self, event: Event) -> None:
        """Keep the sighting live as long as this, if both have the same decision and person.

        Only probes that arrived in time count: a late probe never makes a sighting live.
        """
        shown = event.decision, event.person_number
        if not self.live or shown != (self.decision, self.person_number):
            return
        event.expires_at = max(event.expires_at, self.expires_at) if event.live else self.expires_at
        event.live = True


def _freshness(message: ProbeMessage, outcome: ProbeOutcome) -> Freshness:
    window = timedelta(seconds=outcome.policy.live_s)
    age = outcome.received_at - message.captured_at
    return Freshness(
        outcome.decision,
        outcome.person_number,
        # A device whose clock is ahead must not make old probes live, so both directions count.
        live=abs(age) <= window,
        expires_at=min(message.captured_at, outcome.received_at) + window,
    )


def keep_fresh(event: Event, message: ProbeMessage, outcome: ProbeOutcome) -> None:
    """A weaker probe with the same decision keeps the sighting live."""
    if not event.person_erased and event.review is None:
        _freshness(message, outcome).carry_over(event)


def names_another(event: Event, person_number: int) -> bool:
    """Whether the event identifies another person."""
    return event.decision == "identified" and event.person_number not in (None, person_number)


def better_of_track(track: Track, message: ProbeMessage, outcome: ProbeOutcome) -> bool:
    """Whether this is the best probe of its track (of several that make up a sighting)."""
    return (
        track.event.person_erased
        or outcome.shots.replaces
        or evidence(outcome.decision, outcome.similarity, message.quality.score)
        > evidence(track.decision, track.similarity, track.quality_score)
    )


def better_of_sighting(event: Event, message: ProbeMessage, outcome: ProbeOutcome) -> bool:
    """Whether the sighting must show this probe.

    The result of fused shots replaces the result of fewer shots of the same track, unless other
    tracks of the sighting show its person.
    """
    if event.person_erased:
        return True
    same_track = message.track_id == (event.shown_track_id or event.track_id)
    alone = event.tracks == 1 or event.person_number == outcome.person_number
    if same_track and outcome.shots.replaces and alone:
        return True
    return evidence(outcome.decision, outcome.similarity, message.quality.score) > evidence(
        event.decision, event.similarity, event.quality_score
    )


def keeps_picture(event: Event, message: ProbeMessage, outcome: ProbeOutcome) -> bool:
    """Whether the sighting keeps its picture: the better one of the same track."""
    same_track = message.track_id == (event.shown_track_id or event.track_id)
    better = message.quality.score >= event.quality_score or event.snapshot is None
    return same_track and outcome.shots.replaces and not better


def evidence(decision: str, similarity: float | None, quality: float) -> tuple[int, float]:
    """The order of probes: identified before ambiguous before unknown, then by figures."""
    strength = _STRENGTH[decision]
    return strength, (similarity or 0.0) if decision == "identified" else quality


def show(
    event: Event,
    message: ProbeMessage,
    outcome: ProbeOutcome,
    snapshot: Kept | None,
    *,
    fresh: bool,
    keep_picture: bool = False,
) -> None:
    """Let the event show this probe. With `fresh`, it has shown none before.

    With `keep_picture`, it shows the probe's decision and keeps the picture of the earlier shot.
    """
    was = None if fresh or event.person_erased else Freshness.of(event)
    now = _freshness(message, outcome)
    event.collection_number = outcome.collection.number
    event.decision = outcome.decision
    event.person_number = outcome.person_number
    event.person_erased = False
    event.similarity = outcome.similarity
    event.threshold = outcome.point.threshold
    event.shots = outcome.shots.shots
    event.received_at = outcome.received_at
    event.live = now.live
    event.expires_at = now.expires_at
    if was is not None:
        was.carry_over(event)
    if keep_picture:
        return
    event.shown_track_id = None if event.track_id == message.track_id else message.track_id
    event.captured_at = message.captured_at
    event.quality = message.quality.model_dump(mode="json")
    event.quality_score = message.quality.score
    event.liveness = message.liveness
    event.box = list(message.box)
    event.frame_size = list(message.frame_size)
    event.snapshot = None if snapshot is None else snapshot.name
    event.data_key = None if snapshot is None else snapshot.data_key


def candidate_rows(event: Event, outcome: ProbeOutcome) -> list[dict[str, Any]]:
    """Rows of `event_candidates` for the event that shows this probe."""
    return [
        {
            "event_id": event.id,
            "rank": rank,
            "person_number": candidate.person_number,
            "template_id": candidate.template_id,
            "similarity": candidate.similarity,
            "match_probability": candidate.match_probability,
        }
        for rank, candidate in enumerate(outcome.candidates, start=1)
    ]


def probe_row(message: ProbeMessage, event: Event, outcome: ProbeOutcome) -> dict[str, Any]:
    """The row of `probes`."""
    return {
        "id": message.probe_id,
        "event_id": event.id,
        "device": message.device,
        "sequence": message.sequence,
        "decision": outcome.decision,
        "person_number": outcome.person_number,
        "similarity": outcome.similarity,
        "captured_at": message.captured_at,
        "received_at": outcome.received_at,
    }
