"""Merges two sightings that turn out to be one."""

from datetime import datetime, timedelta

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from match_server.db.tables import Event, EventCandidate, EventTrack, Probe
from match_server.services.change_feed import next_number
from match_server.services.sightings.best_shot import Freshness, evidence
from match_server.services.sightings.probe_templates import keep_better_template

# Columns that a sighting takes from its best probe.
_SHOWN = (
    "collection_number",
    "decision",
    "person_number",
    "person_erased",
    "similarity",
    "threshold",
    "shots",
    "captured_at",
    "received_at",
    "live",
    "expires_at",
    "quality",
    "quality_score",
    "liveness",
    "box",
    "frame_size",
    "snapshot",
    "data_key",
    *(_LOCAL := ("local_decision", "local_person_number", "local_similarity")),
)
_CLOCK_WAS_SET = timedelta(hours=1)
"""A device's clock was set if capture times differ more than receipt times by this."""


def is_better(event: Event, other: Event) -> bool:
    """Whether the probe that an event shows is better than that of another event."""
    return evidence(event.decision, event.similarity, event.quality_score) > evidence(
        other.decision, other.similarity, other.quality_score
    )


def merge(session: Session, into: Event, gone: Event, *, better: bool) -> None:
    """Make `gone` a part of `into`. With `better`, `into` shows the probe of `gone` from now on.

    The rows of both must be stored. The caller stores the changed fields of both events.
    """
    into.probes += gone.probes
    into.tracks += gone.tracks
    extend(into, gone.first_captured_at, gone.last_captured_at, gone.received_at)
    keep_better_template(session, into.id, gone.id, better=better)
    candidates = EventCandidate.event_id
    moved = {"event_id": into.id}
    if better:
        was = Freshness.of(into)
        for name in _SHOWN:
            setattr(into, name, getattr(gone, name))
        into.shown_track_id = gone.shown_track_id or gone.track_id
        was.carry_over(into)
        session.execute(delete(EventCandidate).where(candidates == into.id))
        session.execute(update(EventCandidate).where(candidates == gone.id).values(moved))
    else:
        Freshness.of(gone).carry_over(into)
        if into.local_decision is None:
            for name in _LOCAL:
                setattr(into, name, getattr(gone, name))
        session.execute(delete(EventCandidate).where(candidates == gone.id))
    gone.merged_into, gone.live, gone.snapshot, gone.data_key = into.id, False, None, None
    gone.person_number = gone.local_person_number = None
    gone.revision = next_number(session, "events")
    session.execute(update(EventTrack).where(EventTrack.event_id == gone.id).values(moved))
    session.execute(update(Probe).where(Probe.event_id == gone.id).values(moved))


def extend(event: Event, first: datetime, last: datetime, received_at: datetime) -> None:
    """Extend the sighting to include `first` to `last`, received at `received_at`.

    If the device's clock was set in between, only the later times count: a sighting must not span
    a time without probes, else it would absorb late probes.
    """
    limit = _CLOCK_WAS_SET + abs(received_at - event.received_at)
    if first - event.last_captured_at > limit:
        event.first_captured_at, event.last_captured_at = first, last
    elif event.first_captured_at - last <= limit:
        event.first_captured_at = min(event.first_captured_at, first)
        event.last_captured_at = max(event.last_captured_at, last)
