"""The rows of a probe: its sighting (event), the candidates, and the probe itself."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Table as SqlTable
from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.orm import Session, joinedload

from match_server.db.tables import Event, EventCandidate, EventTrack, Probe
from match_server.schemas.events import EventView
from match_server.services.change_feed import next_number
from match_server.services.lookups import batches
from match_server.services.sightings.best_shot import (
    ProbeOutcome,
    better_of_sighting,
    better_of_track,
    candidate_rows,
    keep_fresh,
    keeps_picture,
    names_another,
    probe_row,
    show,
)
from match_server.services.sightings.event_views import EventViews
from match_server.services.sightings.local_decision import note_local_decision
from match_server.services.sightings.merging import extend, is_better, merge
from match_server.services.storage.files import Kept
from shared.ids import new_id
from shared.wire.messages import ProbeMessage

_OF_TRACKS = (
    select(EventTrack)
    .where(EventTrack.track_id.in_(bindparam("tracks", expanding=True)))
    .options(joinedload(EventTrack.event))
)
# Most tracks and persons have no recent sighting: these queries skip ORM mapping.
_ANY_TRACK = (
    select(EventTrack.event_id)
    .where(EventTrack.track_id.in_(bindparam("tracks", expanding=True)))
    .limit(1)
)
_NEARBY = select(Event.id).where(
    Event.person_number.in_(bindparam("persons", expanding=True)),
    Event.camera.in_(bindparam("cameras", expanding=True)),
    Event.last_captured_at >= bindparam("since"),
    Event.first_captured_at <= bindparam("until"),
)
# Plain tables, without ORM mapping.
_NEW_CANDIDATES = insert(cast(SqlTable, EventCandidate.__table__))
_NEW_PROBES = insert(cast(SqlTable, Probe.__table__))

_Track = tuple[str, str, str]  # device, camera, track id


class Sightings:
    """The sightings of the probes of one transaction; `write` writes all rows together."""

    def __init__(self, session: Session, most: int) -> None:
        """Take the numbers for `most` probes, which locks the writing of events.

        No other transaction writes events until this one ends, so two tracks of one person,
        stored by two processes at once, become one sighting.
        """
        self._session = session
        self._revision = next_number(session, "events", most) - most
        self._tracks: dict[_Track, EventTrack] = {}
        self._events: dict[str, Event] = {}
        self._views = EventViews(session, self._events)
        self._candidates: dict[str, list[dict[str, Any]]] = {}  # by event
        self._replaced: set[str] = set()  # events whose candidates these replace
        self._probes: list[dict[str, Any]] = []
        self.shown: dict[str, str] = {}  # the probe that each event shows, of those added

    def load(self, probes: Sequence[tuple[ProbeMessage, ProbeOutcome]]) -> None:
        """Read the stored tracks and recent sightings of these probes, before they are added."""
        own = {message.track_id for message, _ in probes}
        tracks = list(own | {outcome.shots.earlier_track for _, outcome in probes} - {None})
        if self._session.connection().execute(_ANY_TRACK, {"tracks": tracks}).first() is not None:
            for track in self._session.scalars(_OF_TRACKS, {"tracks": tracks}):
                self._tracks[track.device, track.camera, track.track_id] = track
                self._events[track.event_id] = track.event
        named = [probe for probe in probes if probe[1].person_number is not None]
        if not named:
            return
        window = timedelta(seconds=max(outcome.policy.sighting_s for _, outcome in named))
        near = self._session.connection().scalars(
            _NEARBY,
            {
                "persons": list({outcome.person_number for _, outcome in named}),
                "cameras": list({message.camera for message, _ in named}),
                "since": min(_seen_at(*probe) for probe in named) - window,
                "until": max(_seen_at(*probe) for probe in named) + window,
            },
        )
        for ids in batches(list(set(near) - self._events.keys())):
            for event in self._session.scalars(select(Event).where(Event.id.in_(ids))):
                self._events[event.id] = event

    def add(
        self, message: ProbeMessage, outcome: ProbeOutcome, snapshot: Kept | None
    ) -> tuple[EventView, list[str]]:
        """Add a probe to a new or stored sighting, and return the sighting's view.

        The sighting shows its best probe: of one track the probe of the most shots; else identified
        before ambiguous before unknown, among identified probes the most similar, among others the
        best quality. Also returns the snapshot files that are not needed any more.
        """
        self._revision += 1
        unused: list[str | None] = []
        key = message.device, message.camera, message.track_id
        track = self._tracks.get(key)
        event = self._sighting(message, outcome, track, unused)
        fresh = event is None
        if event is None:
            event, better = self._begin(message, _seen_at(message, outcome)), True
        else:
            event.revision = self._revision
            event.probes += 1
            seen_at = _seen_at(message, outcome)
            extend(event, seen_at, seen_at, outcome.received_at)
            better = event.review is None and better_of_sighting(event, message, outcome)
        keep_picture = not fresh and (not better or keeps_picture(event, message, outcome))
        left_over = None if snapshot is None else snapshot.name
        unused.append(left_over if keep_picture else event.snapshot)
        self._note_track(key, track, event, message, outcome)
        self._probes.append(probe_row(message, event, outcome))
        if better:
            show(event, message, outcome, snapshot, fresh=fresh, keep_picture=keep_picture)
            self.shown[event.id] = message.probe_id
        note_local_decision(self._session, event, message, outcome, better=better)
        if better:
            if not fresh:
                self._replaced.add(event.id)
            self._candidates[event.id] = candidate_rows(event, outcome)
            view = self._views.show(event, outcome)
            return view, [name for name in unused if name is not None]
        keep_fresh(event, message, outcome)
        return self._views.show_earlier(event), [name for name in unused if name is not None]

    def write(self) -> None:
        """Write the gathered rows."""
        self._session.flush()
        if self._replaced:
            old = EventCandidate.event_id.in_(self._replaced)
            self._session.execute(delete(EventCandidate).where(old))
        connection = self._session.connection()
        rows = [row for rows in self._candidates.values() for row in rows]
        if rows:
            connection.execute(_NEW_CANDIDATES, rows)
        if self._probes:
            connection.execute(_NEW_PROBES, self._probes)
        self._candidates, self._probes, self._replaced = {}, [], set()

    def _sighting(
        self,
        message: ProbeMessage,
        outcome: ProbeOutcome,
        track: EventTrack | None,
        unused: list[str | None],
    ) -> Event | None:
        """The stored sighting that this probe belongs to; None: it begins a new one.

        It is the sighting of the probe's track, unless the track shows another person than the
        other tracks of the sighting. An identified probe also belongs to a sighting of the same
        person at the same camera a short time before or after; several such sightings are merged
        into the eldest. An unknown probe belongs to a recent unknown sighting with a similar
        template.
        """
        current = None if track is None else track.event
        person = outcome.person_number
        if current is not None and current.review is not None:
            return current
        if person is None:
            return current or self._recent_stranger(message, outcome)
        if current is not None and track is not None and names_another(current, person):
            if not better_of_track(track, message, outcome):
                return current
            if current.tracks > 1:
                current.tracks -= 1
                current = None
        family = self._near(message, outcome, person)
        if current is not None and current not in family:
            family.append(current)
        if not family:
            return None
        eldest = min(family, key=lambda event: event.created_revision)
        for event in family:
            if event is not eldest:
                unused.append(self._absorb(eldest, event))
        return eldest

    def _recent_stranger(self, message: ProbeMessage, outcome: ProbeOutcome) -> Event | None:
        """The sighting of the same unknown face, after a short time out of view."""
        earlier = outcome.shots.earlier_track if outcome.decision == "unknown" else None
        track = self._tracks.get((message.device, message.camera, earlier)) if earlier else None
        unknown = track is not None and track.event.person_number is None
        if track is None or not unknown or track.event.merged_into or track.event.person_erased:
            return None
        return track.event if track.event.decision == "unknown" else None

    def _near(self, message: ProbeMessage, outcome: ProbeOutcome, person: int) -> list[Event]:
        """Sightings of this person at this camera within the policy's time for one sighting."""
        window = timedelta(seconds=outcome.policy.sighting_s)
        if not window:
            return []
        seen_at = _seen_at(message, outcome)
        return [
            event
            for event in self._events.values()
            if event.person_number == person
            and (event.device, event.camera) == (message.device, message.camera)
            and event.merged_into is None
            and event.review is None
            and event.first_captured_at - window <= seen_at <= event.last_captured_at + window
            # Sightings stored before `_seen_at` existed may reach a year ahead.
            and event.last_captured_at <= outcome.received_at + window
        ]

    def _absorb(self, into: Event, gone: Event) -> str | None:
        """Merge `gone` into `into`, and return the snapshot that is not needed any more."""
        self.write()  # the rows that are moved must be stored
        better = is_better(gone, into)
        shown = self.shown.pop(gone.id, None)
        if better and shown is not None:
            self.shown[into.id] = shown
        unused = into.snapshot if better else gone.snapshot
        for track in self._tracks.values():
            if track.event is gone:
                track.event = into
        merge(self._session, into, gone, better=better)
        self._views.forget(into.id)
        return unused

    def _begin(self, message: ProbeMessage, seen_at: datetime) -> Event:
        taken = (message.device, message.camera, message.track_id) in self._tracks
        event = Event(
            id=new_id(),
            revision=self._revision,
            created_revision=self._revision,
            device=message.device,
            camera=message.camera,
            track_id=new_id() if taken else message.track_id,
            tracks=0,
            first_captured_at=seen_at,
            last_captured_at=seen_at,
            probes=1,
        )
        self._events[event.id] = event
        self._session.add(event)
        return event

    def _note_track(
        self,
        key: _Track,
        track: EventTrack | None,
        event: Event,
        message: ProbeMessage,
        outcome: ProbeOutcome,
    ) -> None:
        """Store the sighting of this track, and the track's best probe."""
        if track is None:
            device, camera, track_id = key
            track = self._tracks[key] = EventTrack(device=device, camera=camera, track_id=track_id)
            track.event = event
            self._session.add(track)
            event.tracks += 1
        else:
            if track.event is not event:
                track.event = event
                event.tracks += 1
            if not better_of_track(track, message, outcome):
                return
        track.decision = outcome.decision
        track.similarity = outcome.similarity
        track.quality_score = message.quality.score


def _seen_at(message: ProbeMessage, outcome: ProbeOutcome) -> datetime:
    """When the face was captured, but not after the receipt, because a device's clock may be ahead.

    Else one probe of a clock that is a year ahead would merge all sightings of that year.
    """
    return min(message.captured_at, outcome.received_at)
