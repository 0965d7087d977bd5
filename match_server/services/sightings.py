"""The rows that a probe leaves: its sighting (event), the candidates of that, itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Table as SqlTable
from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.orm import Session

from match_server.schemas.base import Decision
from match_server.schemas.collections import Policy
from match_server.schemas.events import EventView
from match_server.schemas.persons import PersonName
from match_server.services.changes import next_number
from match_server.services.events import event_view, view_of
from match_server.services.identification import candidate_view
from match_server.services.policy import Candidate
from match_server.services.scopes import Scope
from match_server.tables import Event, EventCandidate, Probe
from shared.ids import new_id
from shared.messages import ProbeMessage

_STRENGTH: dict[str, int] = {"unknown": 0, "ambiguous": 1, "identified": 2}

_OF_TRACKS = select(Event).where(Event.track_id.in_(bindparam("tracks", expanding=True)))
_NEW_CANDIDATES = insert(
    cast(SqlTable, EventCandidate.__table__)
)  # of bare tables: there is nothing to map
_NEW_PROBES = insert(cast(SqlTable, Probe.__table__))

_Track = tuple[str, str, str]  # device, camera, track id


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one probe says."""

    decision: Decision
    candidates: Sequence[Candidate]  # best first
    scope: Scope  # that was searched
    policy: Policy
    received_at: datetime

    @property
    def similarity(self) -> float | None:
        return self.candidates[0].similarity if self.candidates else None

    @property
    def person_number(self) -> int | None:
        return self.candidates[0].person_number if self.decision == "identified" else None


class Sightings:
    """The sightings that the probes of one transaction are part of.

    Rows are gathered and written together by `write`, which ends the work.
    """

    def __init__(self, session: Session, messages: Sequence[ProbeMessage]) -> None:
        """Loads what is known of the tracks of these probes, all of which will be added."""
        self._session = session
        self._revision = next_number(session, "events", len(messages)) - len(messages)
        tracks = list({message.track_id for message in messages})
        found = session.scalars(_OF_TRACKS, {"tracks": tracks})
        self._events: dict[_Track, Event] = {
            (event.device, event.camera, event.track_id): event for event in found
        }
        self._candidates: dict[str, list[dict[str, Any]]] = {}  # by event
        self._replaced: set[str] = set()  # events whose candidates these replace
        self._probes: list[dict[str, Any]] = []

    def add(
        self, message: ProbeMessage, verdict: Verdict, snapshot: str | None
    ) -> tuple[EventView, str | None]:
        """The event of the probe's track, new or brought up to date, as it looks now.

        It shows its best probe: an identified one before an ambiguous before an unknown, among the
        identified the most similar, among the others the best quality. Answers as well the
        snapshot file that nobody needs any more.
        """
        self._revision += 1
        track = message.device, message.camera, message.track_id
        event = self._events.get(track)
        unused: str | None = None
        if event is None:
            event = self._events[track] = self._new_event(message)
            better = True
        else:
            event.revision = self._revision
            event.probes += 1
            event.first_captured_at = min(event.first_captured_at, message.captured_at)
            event.last_captured_at = max(event.last_captured_at, message.captured_at)
            better = event.person_erased or _evidence(
                verdict.decision, verdict.similarity, message.quality.score
            ) > _evidence(event.decision, event.similarity, event.quality_score)
            unused = event.snapshot if better else snapshot
            if better:
                self._replaced.add(event.id)
        self._probes.append(_probe_row(message, event, verdict))
        if not better:
            self.write()
            view = event_view(self._session, event.id)
            if view is None:
                raise RuntimeError("an event that was just written is gone")
            return view, unused
        _show(event, message, verdict, snapshot)
        self._session.add(event)
        self._candidates[event.id] = _candidate_rows(event, verdict)
        return _shown(event, verdict), unused

    def write(self) -> None:
        """Write what was gathered."""
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

    def _new_event(self, message: ProbeMessage) -> Event:
        return Event(
            id=new_id(),
            revision=self._revision,
            created_revision=self._revision,
            device=message.device,
            camera=message.camera,
            track_id=message.track_id,
            first_captured_at=message.captured_at,
            last_captured_at=message.captured_at,
            probes=1,
        )


def _evidence(decision: str, similarity: float | None, quality: float) -> tuple[int, float]:
    strength = _STRENGTH[decision]
    return strength, (similarity or 0.0) if decision == "identified" else quality


def _show(event: Event, message: ProbeMessage, verdict: Verdict, snapshot: str | None) -> None:
    """Let the event show this probe."""
    window = timedelta(seconds=verdict.policy.live_s)
    age = verdict.received_at - message.captured_at
    event.collection_number = verdict.scope.number
    event.decision = verdict.decision
    event.person_number = verdict.person_number
    event.person_erased = False
    event.similarity = verdict.similarity
    event.captured_at = message.captured_at
    event.received_at = verdict.received_at
    # A box whose clock runs ahead must not make old news look fresh: neither way may be far off.
    event.live = abs(age) <= window
    event.expires_at = min(message.captured_at, verdict.received_at) + window
    event.quality = message.quality.model_dump(mode="json")
    event.quality_score = message.quality.score
    event.liveness = message.liveness
    event.box = list(message.box)
    event.frame_size = list(message.frame_size)
    event.snapshot = snapshot


def _shown(event: Event, verdict: Verdict) -> EventView:
    """The event that shows this probe, as clients see it."""
    person: PersonName | None = None
    if verdict.decision == "identified":
        best = verdict.candidates[0]
        person = PersonName(id=best.person_id, name=best.person_name)
    candidates = [
        candidate_view(
            PersonName(id=one.person_id, name=one.person_name),
            one.template_id,
            one.similarity,
            rank,
        )
        for rank, one in enumerate(verdict.candidates, start=1)
    ]
    return view_of(event, verdict.scope.name, person, candidates)


def _candidate_rows(event: Event, verdict: Verdict) -> list[dict[str, Any]]:
    return [
        {
            "event_id": event.id,
            "rank": rank,
            "person_number": one.person_number,
            "template_id": one.template_id,
            "similarity": one.similarity,
        }
        for rank, one in enumerate(verdict.candidates, start=1)
    ]


def _probe_row(message: ProbeMessage, event: Event, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": message.probe_id,
        "event_id": event.id,
        "device": message.device,
        "sequence": message.sequence,
        "decision": verdict.decision,
        "person_number": verdict.person_number,
        "similarity": verdict.similarity,
        "captured_at": message.captured_at,
        "received_at": verdict.received_at,
    }
