"""The rows of a probe: its sighting (event), the candidates, and the probe itself."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from match_server.db.tables import Event
from match_server.schemas.events import EventView
from match_server.services.change_feed import next_number
from match_server.services.sightings.best_shot import (
    ProbeOutcome,
    Track,
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
from match_server.services.sightings.sighting_rows import SightingRows
from match_server.services.sightings.track_templates import TrackKey
from match_server.services.storage.files import Kept
from shared.ids import new_id
from shared.wire.messages import ProbeMessage


class Sightings:
    """The sightings of the probes of one transaction; `write` writes all rows together."""

    def __init__(self, session: Session, most: int) -> None:
        """Take the numbers for `most` probes, which locks the writing of events.

        No other transaction writes events until this one ends, so two tracks of one person,
        stored by two processes at once, become one sighting.
        """
        self._session = session
        self._revision = next_number(session, "events", most) - most
        self._rows = SightingRows(session)
        self._views = EventViews(session, self._rows.events)
        self.shown: dict[str, str] = {}  # the probe that each event shows, of those added

    def load(self, probes: Sequence[tuple[ProbeMessage, ProbeOutcome]]) -> None:
        """Read the stored tracks and recent sightings of these probes, before they are added."""
        own = {message.track_id for message, _ in probes}
        earlier = {outcome.shots.earlier_track for _, outcome in probes}
        self._rows.load_tracks([track for track in own | earlier if track is not None])
        persons = {outcome.person_number for _, outcome in probes} - {None}
        if not persons:
            return
        named = [probe for probe in probes if probe[1].person_number is not None]
        window = timedelta(seconds=max(outcome.policy.sighting_s for _, outcome in named))
        self._rows.load_nearby(
            [person for person in persons if person is not None],
            {message.camera for message, _ in named},
            since=min(_seen_at(*probe) for probe in named) - window,
            until=max(_seen_at(*probe) for probe in named) + window,
        )

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
        track = self._rows.tracks.get(key)
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
        self._rows.change(event)
        self._rows.add_probe(probe_row(message, event, outcome))
        if better:
            show(event, message, outcome, snapshot, fresh=fresh, keep_picture=keep_picture)
            self.shown[event.id] = message.probe_id
        note_local_decision(self._session, event, message, outcome, better=better)
        if better:
            self._rows.replace_candidates(event, candidate_rows(event, outcome))
            view = self._views.show(event, outcome)
            return view, [name for name in unused if name is not None]
        keep_fresh(event, message, outcome)
        return self._views.show_stored(event), [name for name in unused if name is not None]

    def write(self) -> None:
        """Write the rows of the added probes."""
        self._rows.write()

    def _sighting(
        self,
        message: ProbeMessage,
        outcome: ProbeOutcome,
        track: Track | None,
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
                self._rows.change(current)
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
        track = (
            self._rows.tracks.get((message.device, message.camera, earlier)) if earlier else None
        )
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
            for event in self._rows.events.values()
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
        self._rows.write()  # the rows that are moved must be stored
        better = is_better(gone, into)
        shown = self.shown.pop(gone.id, None)
        if better and shown is not None:
            self.shown[into.id] = shown
        unused = into.snapshot if better else gone.snapshot
        for track in self._rows.tracks.values():
            if track.event is gone:
                track.event = into
        merge(self._session, into, gone, better=better)
        self._rows.change(into)
        self._rows.change(gone)
        self._views.forget(into.id)
        return unused

    def _begin(self, message: ProbeMessage, seen_at: datetime) -> Event:
        taken = (message.device, message.camera, message.track_id) in self._rows.tracks
        return Event(
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

    def _note_track(
        self,
        key: TrackKey,
        track: Track | None,
        event: Event,
        message: ProbeMessage,
        outcome: ProbeOutcome,
    ) -> None:
        """Store the sighting of this track, and the track's best probe."""
        similarity, score = outcome.similarity, message.quality.score
        if track is None or track.event is not event:
            event.tracks += 1
        if track is None or better_of_track(track, message, outcome):
            track = Track(event, outcome.decision, similarity, score)
        elif track.event is event:
            return
        else:
            track.event = event
        self._rows.change_track(key, track)


def _seen_at(message: ProbeMessage, outcome: ProbeOutcome) -> datetime:
    """When the face was captured, but not after the receipt, because a device's clock may be ahead.

    Else one probe of a clock that is a year ahead would merge all sightings of that year.
    """
    return min(message.captured_at, outcome.received_at)
