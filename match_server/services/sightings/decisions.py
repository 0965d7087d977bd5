"""Decisions of users on sightings: they relabel similar sightings, and can be undone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from match_server.db.tables import (
    Collection,
    Event,
    EventDecision,
    EventLabel,
    EventTemplate,
    Person,
)
from match_server.schemas.decisions import (
    DecisionGiven,
    DecisionKind,
    DecisionUndone,
    DecisionView,
)
from match_server.schemas.persons import PersonName
from match_server.services.audit.chain import Note, current_actor, note
from match_server.services.change_feed import next_number
from match_server.services.enrollment.learning import Learner, LearningResult
from match_server.services.lookups import person_named
from match_server.services.recognition.context import Recognition
from match_server.services.recognition.stored_rows import stored_rows
from shared.errors import Conflict, Damaged, KeyMissing, NotFound
from shared.ids import new_id

LIKE = "like"
"""`review` of a sighting that was relabelled because it is similar to a corrected one."""

_MOST_ALIKE = 2_000  # earlier sightings that are looked at, the newest first


@dataclass(frozen=True, slots=True)
class _Label:
    """A decision on a sighting, and the person."""

    decision: str
    person: Person | None


class Decisions:
    """Stores and undoes decisions."""

    def __init__(self, recognition: Recognition, learner: Learner) -> None:
        self._database = recognition.database
        self._vault = recognition.vault
        self._points = recognition.points
        self._clock = recognition.clock
        self._learner = learner

    def decide(self, event_id: str, request: DecisionGiven) -> DecisionView:
        """Store a decision, after undoing an earlier decision on the same sighting.

        Raises NotFound; Conflict for a sighting that is part of another, and for the confirmation
        of a sighting without a person.
        """
        now = self._clock.now()
        with self._database.write() as session:
            event = _event(session, event_id)
            if event.merged_into is not None:
                raise Conflict(
                    f"this sighting is part of {event.merged_into!r}: decide on that one",
                    merged_into=event.merged_into,
                )
            collection = _collection_of(session, event)
            former = _decision_of(session, event)
            if former is not None:
                self._undo(session, collection, former)
            _free(session, event)
            label = _label(session, collection, event, request)
            decision = EventDecision(
                id=new_id(),
                event_id=event.id,
                kind=request.decision,
                person_number=None if label.person is None else label.person.number,
                actor=current_actor().who[:63],
                at=now,
            )
            session.add(decision)
            session.flush()
            own = self._template(session, collection, event.id)
            similar = (
                []
                if request.decision == "confirmed"
                else self._alike(session, collection, event, own)
            )
            _relabel(session, event, decision, label, request.decision)
            for other in similar:
                _relabel(session, other, decision, label, LIKE)
            learning = LearningResult(None, None)
            if label.person is not None:
                learning = self._learner.learn(session, collection, label.person, event, own, now)
                decision.template_id = learning.template_id
            details: dict[str, JsonValue] = {
                "decision": request.decision,
                "relabelled": len(similar),
                "learnt": learning.template_id,
            }
            person = None if label.person is None else label.person.id
            note(session, Note("event_decided", now, event.id, person, collection.number, details))
            session.flush()
            return _view(decision, label.person, len(similar), learning)

    def get(self, event_id: str) -> DecisionView:
        """The decision on a sighting. Raises NotFound when there is none."""
        with self._database.read() as session:
            decision = _required(session, _event(session, event_id))
            person = None
            if decision.person_number is not None:
                person = session.get(Person, decision.person_number)
            labels = select(EventLabel.event_id).where(EventLabel.decision_id == decision.id)
            count = len(session.scalars(labels).all()) - 1
            return _view(decision, person, count, LearningResult(decision.template_id, None))

    def undo(self, event_id: str) -> DecisionUndone:
        """Restore the labels that a decision changed, and remove the learnt reference."""
        now = self._clock.now()
        with self._database.write() as session:
            event = _event(session, event_id)
            collection = _collection_of(session, event)
            decision = _required(session, event)
            kind, learnt = decision.kind, decision.template_id
            restored = self._undo(session, collection, decision)
            details: dict[str, JsonValue] = {
                "decision": kind,
                "restored": restored,
                "forgotten": learnt,
            }
            note(session, Note("event_undecided", now, event.id, None, collection.number, details))
            return DecisionUndone(event=event.id, restored=restored, template_id=learnt)

    def _undo(self, session: Session, collection: Collection, decision: EventDecision) -> int:
        labels = session.scalars(
            select(EventLabel).where(EventLabel.decision_id == decision.id)
        ).all()
        for label in labels:
            _restore(session, session.get_one(Event, label.event_id), label)
        if decision.template_id is not None:
            self._learner.forget(session, collection, decision.template_id)
        session.execute(delete(EventDecision).where(EventDecision.id == decision.id))
        session.expire_all()
        return len(labels)

    def _template(
        self, session: Session, collection: Collection, event_id: str
    ) -> NDArray[np.float32] | None:
        """The unit row of a sighting's template, of the collection's model; None without one."""
        by_event = self._templates(session, collection, [event_id])
        return by_event.get(event_id)

    def _templates(
        self, session: Session, collection: Collection, events: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        rows = session.execute(
            select(EventTemplate.event_id, EventTemplate.id, EventTemplate.vector).where(
                EventTemplate.event_id.in_(events), EventTemplate.model_id == collection.model_id
            )
        ).all()
        cipher = self._vault.cipher(session, collection)
        by_event = {}
        for event_id, row_id, vector in rows:
            try:
                opened = cipher.open_vectors(collection.model_id, [(row_id, vector)])
                (row,) = stored_rows(opened, collection.dimension).astype(np.float32)
            except (Damaged, KeyMissing):  # encrypted with a key that was destroyed since
                continue
            by_event[event_id] = row
        return by_event

    def _alike(
        self,
        session: Session,
        collection: Collection,
        event: Event,
        template: NDArray[np.float32] | None,
    ) -> list[Event]:
        """Sightings with the same mistake: others of the track, and similar earlier sightings.

        A similar sighting has the same person (or none), reaches the threshold in comparison with
        this one, and is more similar to it than to its own person. Sightings with a user's decision
        are left out.
        """
        tracks = [event.track_id, *([event.shown_track_id] if event.shown_track_id else [])]
        same_track = (
            (Event.device == event.device)
            & (Event.camera == event.camera)
            & or_(Event.track_id.in_(tracks), Event.shown_track_id.in_(tracks))
        )
        same_label = (
            Event.person_number.is_(None) & (Event.decision != "identified")
            if event.person_number is None
            else Event.person_number == event.person_number
        )
        others = session.scalars(
            select(Event)
            .where(
                Event.collection_number == collection.number,
                Event.id != event.id,
                Event.merged_into.is_(None),
                Event.review.is_(None),
                same_label & (same_track | (Event.first_captured_at <= event.last_captured_at)),
            )
            .order_by(Event.last_captured_at.desc())
            .limit(_MOST_ALIKE)
        ).all()
        similar = [
            other for other in others if other.track_id in tracks or other.shown_track_id in tracks
        ]
        if template is None:
            return similar
        threshold = self._points.named(session, collection.name).threshold
        rest = {other.id: other for other in others if other not in similar}
        for event_id, row in self._templates(session, collection, list(rest)).items():
            earlier = rest[event_id]
            named = earlier.similarity if earlier.decision == "identified" else None
            similarity = float(row @ template)
            if similarity >= threshold and similarity > (named or -1.0):
                similar.append(earlier)
        return similar


def _label(
    session: Session, collection: Collection, event: Event, request: DecisionGiven
) -> _Label:
    """The label that the decision gives a sighting."""
    if request.decision == "person":
        return _Label("identified", person_named(session, collection, request.person or ""))
    if request.decision != "confirmed":
        return _Label("unknown", None)
    if event.decision != "identified" or event.person_number is None:
        raise Conflict("this sighting names nobody: say who it is with decision `person`")
    return _Label("identified", session.get_one(Person, event.person_number))


def _relabel(
    session: Session, event: Event, decision: EventDecision, label: _Label, review: str
) -> None:
    session.add(
        EventLabel(
            event_id=event.id,
            decision_id=decision.id,
            decision=event.decision,
            person_number=event.person_number,
            person_erased=event.person_erased,
        )
    )
    event.decision = label.decision
    event.person_number = None if label.person is None else label.person.number
    event.person_erased = False
    event.review = review
    _mark_changed(session, event)


def _restore(session: Session, event: Event, label: EventLabel) -> None:
    event.decision = label.decision
    event.person_number = label.person_number
    event.person_erased = label.person_erased or (
        label.decision == "identified" and label.person_number is None
    )
    event.review = None
    session.delete(label)
    _mark_changed(session, event)


def _mark_changed(session: Session, event: Event) -> None:
    """Give the event a new revision; a later decision never makes it live."""
    event.live = False
    event.revision = next_number(session, "events")
    session.flush()


def _free(session: Session, event: Event) -> None:
    """Undo the relabelling of this sighting by the decision on another sighting."""
    label = session.get(EventLabel, event.id)
    if label is not None:
        _restore(session, event, label)


def _event(session: Session, event_id: str) -> Event:
    event = session.get(Event, event_id)
    if event is None:
        raise NotFound(f"there is no event {event_id!r}")
    return event


def _collection_of(session: Session, event: Event) -> Collection:
    collection = None
    if event.collection_number is not None:
        collection = session.get(Collection, event.collection_number)
    if collection is None:
        raise NotFound("the collection of this sighting was erased")
    return collection


def _decision_of(session: Session, event: Event) -> EventDecision | None:
    return session.scalars(
        select(EventDecision).where(EventDecision.event_id == event.id)
    ).one_or_none()


def _required(session: Session, event: Event) -> EventDecision:
    decision = _decision_of(session, event)
    if decision is None:
        raise NotFound(f"there is no decision on event {event.id!r}")
    return decision


def _view(
    decision: EventDecision, person: Person | None, relabelled: int, learning: LearningResult
) -> DecisionView:
    at: datetime = decision.at
    return DecisionView(
        id=decision.id,
        event=decision.event_id,
        decision=cast(DecisionKind, decision.kind),
        person=None if person is None else PersonName(id=person.id, name=person.name),
        by=decision.actor,
        at=at,
        relabelled=max(relabelled, 0),
        template_id=learning.template_id,
        not_learnt=learning.reason,
    )
