"""A person's word on sightings: it relabels what is alike, is learnt from, and can be undone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
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
from match_server.services.collection_ref import scope_named
from match_server.services.encryption.vault import Vault
from match_server.services.enrollment.learning import Learner, Lesson
from match_server.services.galleries.galleries import stored_rows
from match_server.services.lookups import person_named
from match_server.services.recognition.operating_point import OperatingPoints
from shared.clock import Clock
from shared.errors import Conflict, Damaged, KeyMissing, NotFound
from shared.ids import new_id

LIKE = "like"
"""`review` of a sighting that was relabelled because it is like one that somebody corrected."""

_MOST_ALIKE = 2_000  # earlier sightings that are looked at, the newest first


@dataclass(frozen=True, slots=True)
class _Label:
    """What a sighting says."""

    decision: str
    person: Person | None


class Decisions:
    """Takes and undoes decisions."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        points: OperatingPoints,
        learner: Learner,
        clock: Clock,
    ) -> None:
        self._database = database
        self._vault = vault
        self._points = points
        self._learner = learner
        self._clock = clock

    def decide(self, event_id: str, given: DecisionGiven) -> DecisionView:
        """Note a decision; one that was there before is undone first.

        Raises NotFound; Conflict for a sighting that is part of another, and for a confirmation of
        one that names nobody.
        """
        now = self._clock.now()
        with self._database.write() as session:
            event = _event(session, event_id)
            if event.merged_into is not None:
                raise Conflict(
                    f"this sighting is part of {event.merged_into!r}: decide on that one",
                    merged_into=event.merged_into,
                )
            owner = _owner(session, event)
            former = _decision_of(session, event)
            if former is not None:
                self._undo(session, owner, former)
            _free(session, event)
            label = _label(session, owner, event, given)
            decision = EventDecision(
                id=new_id(),
                event_id=event.id,
                kind=given.decision,
                person_number=None if label.person is None else label.person.number,
                actor=current_actor().who[:63],
                at=now,
            )
            session.add(decision)
            session.flush()
            own = self._template(session, owner, event.id)
            alike = [] if given.decision == "confirmed" else self._alike(session, owner, event, own)
            _relabel(session, event, decision, label, given.decision)
            for other in alike:
                _relabel(session, other, decision, label, LIKE)
            lesson = Lesson(None, None)
            if label.person is not None:
                lesson = self._learner.learn(session, owner, label.person, event, own, now)
                decision.template_id = lesson.template_id
            details: dict[str, JsonValue] = {
                "decision": given.decision,
                "relabelled": len(alike),
                "learnt": lesson.template_id,
            }
            person = None if label.person is None else label.person.id
            note(session, Note("event_decided", now, event.id, person, owner.number, details))
            session.flush()
            return _view(decision, label.person, len(alike), lesson)

    def get(self, event_id: str) -> DecisionView:
        """The decision on a sighting. Raises NotFound when there is none."""
        with self._database.read() as session:
            decision = _required(session, _event(session, event_id))
            person = None
            if decision.person_number is not None:
                person = session.get(Person, decision.person_number)
            labels = select(EventLabel.event_id).where(EventLabel.decision_id == decision.id)
            count = len(session.scalars(labels).all()) - 1
            return _view(decision, person, count, Lesson(decision.template_id, None))

    def undo(self, event_id: str) -> DecisionUndone:
        """Put back what a decision changed: labels, and the reference that was learnt."""
        now = self._clock.now()
        with self._database.write() as session:
            event = _event(session, event_id)
            owner = _owner(session, event)
            decision = _required(session, event)
            kind, learnt = decision.kind, decision.template_id
            restored = self._undo(session, owner, decision)
            details: dict[str, JsonValue] = {
                "decision": kind,
                "restored": restored,
                "forgotten": learnt,
            }
            note(session, Note("event_undecided", now, event.id, None, owner.number, details))
            return DecisionUndone(event=event.id, restored=restored, template_id=learnt)

    def _undo(self, session: Session, owner: Collection, decision: EventDecision) -> int:
        labels = session.scalars(
            select(EventLabel).where(EventLabel.decision_id == decision.id)
        ).all()
        for label in labels:
            _restore(session, session.get_one(Event, label.event_id), label)
        if decision.template_id is not None:
            self._learner.forget(session, owner, decision.template_id)
        session.execute(delete(EventDecision).where(EventDecision.id == decision.id))
        session.expire_all()
        return len(labels)

    def _template(
        self, session: Session, owner: Collection, event_id: str
    ) -> NDArray[np.float32] | None:
        """The unit row of a sighting's template, of the collection's model; None without one."""
        found = self._templates(session, owner, [event_id])
        return found.get(event_id)

    def _templates(
        self, session: Session, owner: Collection, events: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        rows = session.execute(
            select(EventTemplate.event_id, EventTemplate.id, EventTemplate.vector).where(
                EventTemplate.event_id.in_(events), EventTemplate.model_id == owner.model_id
            )
        ).all()
        cipher = self._vault.cipher(session, owner)
        found = {}
        for event_id, row_id, vector in rows:
            try:
                opened = cipher.open_vectors(owner.model_id, [(row_id, vector)])
                (row,) = stored_rows(opened, owner.dimension).astype(np.float32)
            except (Damaged, KeyMissing):  # sealed with a key that was destroyed since
                continue
            found[event_id] = row
        return found

    def _alike(
        self,
        session: Session,
        owner: Collection,
        event: Event,
        own: NDArray[np.float32] | None,
    ) -> list[Event]:
        """Sightings that made the same mistake: the others of the track, and earlier ones alike.

        Alike: said to show the same (person, or nobody), at least as similar to this one as the
        threshold asks, and more similar to it than to the person they were taken for. Those on
        which a person has decided stay as they are.
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
                Event.collection_number == owner.number,
                Event.id != event.id,
                Event.merged_into.is_(None),
                Event.review.is_(None),
                same_label & (same_track | (Event.first_captured_at <= event.last_captured_at)),
            )
            .order_by(Event.last_captured_at.desc())
            .limit(_MOST_ALIKE)
        ).all()
        found = [one for one in others if one.track_id in tracks or one.shown_track_id in tracks]
        if own is None:
            return found
        threshold = self._points.of(scope_named(session, owner.name)).threshold
        rest = {one.id: one for one in others if one not in found}
        for event_id, row in self._templates(session, owner, list(rest)).items():
            other = rest[event_id]
            named = other.similarity if other.decision == "identified" else None
            similarity = float(row @ own)
            if similarity >= threshold and similarity > (named or -1.0):
                found.append(other)
        return found


def _label(session: Session, owner: Collection, event: Event, given: DecisionGiven) -> _Label:
    """What the decision makes of a sighting."""
    if given.decision == "person":
        return _Label("identified", person_named(session, owner, given.person or ""))
    if given.decision != "confirmed":
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
    _touched(session, event)


def _restore(session: Session, event: Event, label: EventLabel) -> None:
    event.decision = label.decision
    event.person_number = label.person_number
    event.person_erased = label.person_erased or (
        label.decision == "identified" and label.person_number is None
    )
    event.review = None
    session.delete(label)
    _touched(session, event)


def _touched(session: Session, event: Event) -> None:
    """Those who watch are told; a word that comes later opens no door."""
    event.live = False
    event.revision = next_number(session, "events")
    session.flush()


def _free(session: Session, event: Event) -> None:
    """Take a sighting out of another's decision, which relabelled it."""
    label = session.get(EventLabel, event.id)
    if label is not None:
        _restore(session, event, label)


def _event(session: Session, event_id: str) -> Event:
    event = session.get(Event, event_id)
    if event is None:
        raise NotFound(f"there is no event {event_id!r}")
    return event


def _owner(session: Session, event: Event) -> Collection:
    owner = None
    if event.collection_number is not None:
        owner = session.get(Collection, event.collection_number)
    if owner is None:
        raise NotFound("the collection of this sighting was erased")
    return owner


def _decision_of(session: Session, event: Event) -> EventDecision | None:
    return session.scalars(
        select(EventDecision).where(EventDecision.event_id == event.id)
    ).one_or_none()


def _required(session: Session, event: Event) -> EventDecision:
    decision = _decision_of(session, event)
    if decision is None:
        raise NotFound(f"nobody has decided on event {event.id!r}")
    return decision


def _view(
    decision: EventDecision, person: Person | None, relabelled: int, lesson: Lesson
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
        template_id=lesson.template_id,
        not_learnt=lesson.reason,
    )
