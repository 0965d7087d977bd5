"""Events as clients see them, with candidates and names read together."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from match_server.db.tables import Collection, Event, EventCandidate, Person
from match_server.schemas.base import Decision
from match_server.schemas.events import EventView, LocalView
from match_server.schemas.persons import PersonName
from match_server.schemas.search import CandidateView
from match_server.services.lookups import batches
from match_server.services.policy.candidates import views_of
from match_server.services.sightings.best_shot import ProbeOutcome
from shared.wire.quality import Quality

_PERSONS = select(Person.number, Person.id, Person.name).where(
    Person.number.in_(bindparam("ids", expanding=True))
)
_COLLECTIONS = select(Collection.number, Collection.name).where(
    Collection.number.in_(bindparam("ids", expanding=True))
)
_CANDIDATES = (
    select(
        EventCandidate.event_id,
        Person.id,
        Person.name,
        EventCandidate.template_id,
        EventCandidate.similarity,
        EventCandidate.match_probability,
    )
    .join(Person, Person.number == EventCandidate.person_number)
    .where(EventCandidate.event_id.in_(bindparam("ids", expanding=True)))
    .order_by(EventCandidate.event_id, EventCandidate.rank)
)


Review = Literal["confirmed", "wrong", "person", "discard", "like"]


def views_of_events(session: Session, events: Sequence[Event]) -> list[EventView]:
    """Stored events as clients see them."""
    views = EventViews(session, {event.id: event for event in events})
    return [views.show_stored(event) for event in events]


class EventViews:
    """Views of several events of one transaction.

    The candidates of all events are read when one of them is needed first, so the number of
    queries does not grow with the number of events.
    """

    def __init__(self, session: Session, events: Mapping[str, Event]) -> None:
        """`events`, by id, may grow meanwhile."""
        self._session = session
        self._events = events
        self._candidates: dict[str, list[CandidateView]] = {}  # by event
        self._persons: dict[int, PersonName | None] = {}  # None: the person does not exist
        self._collections: dict[int, str] = {}

    def show(self, event: Event, outcome: ProbeOutcome) -> EventView:
        """The event, which shows the probe of this outcome."""
        candidates = self._candidates[event.id] = views_of(outcome.candidates)
        person = candidates[0].person if outcome.decision == "identified" else None
        local = self._person(event.local_person_number)
        return _view(event, outcome.collection.name, person, candidates, local)

    def show_stored(self, event: Event) -> EventView:
        """The event, which shows the candidates that were stored, or shown before."""
        if event.id not in self._candidates:
            self._read()
        return _view(
            event,
            self._collection(event.collection_number),
            self._person(event.person_number),
            self._candidates[event.id],
            self._person(event.local_person_number),
        )

    def forget(self, event_id: str) -> None:
        """Read the candidates of this event again, which were changed in the database."""
        self._candidates.pop(event_id, None)

    def _read(self) -> None:
        """Read the candidates and persons of all events that were not read yet."""
        unread = self._events.keys() - self._candidates.keys()
        self._candidates.update((event_id, []) for event_id in unread)
        for event_id, person, name, template, similarity, probability in self._rows(
            _CANDIDATES, unread
        ):
            candidates = self._candidates[event_id]
            candidates.append(
                CandidateView.of(
                    PersonName(id=person, name=name),
                    template,
                    similarity,
                    probability,
                    rank=len(candidates) + 1,
                )
            )
        events = [self._events[event_id] for event_id in unread]
        self._read_persons({event.person_number for event in events})
        self._read_persons({event.local_person_number for event in events})

    def _person(self, number: int | None) -> PersonName | None:
        if number is None:
            return None
        if number not in self._persons:
            self._read_persons({number})
        return self._persons[number]

    def _read_persons(self, numbers: set[int | None]) -> None:
        unread = numbers - self._persons.keys() - {None}
        self._persons.update((number, None) for number in unread if number is not None)
        for number, person_id, name in self._rows(_PERSONS, unread):
            self._persons[number] = PersonName(id=person_id, name=name)

    def _collection(self, number: int | None) -> str | None:
        if number is None:
            return None
        if number not in self._collections:
            self._collections.update(self._rows(_COLLECTIONS, {number}))
        return self._collections.get(number)

    def _rows(self, statement: Any, ids: Iterable[Any]) -> list[Any]:
        connection = self._session.connection()
        return [
            tuple(row)
            for batch in batches(list(ids))
            for row in connection.execute(statement, {"ids": batch})
        ]


def _view(
    row: Event,
    collection: str | None,
    person: PersonName | None,
    candidates: list[CandidateView],
    local_person: PersonName | None,
) -> EventView:
    """An event as clients see it, with the names that go with it."""
    x1, y1, x2, y2 = row.box
    width, height = row.frame_size
    return EventView(
        id=row.id,
        revision=row.revision,
        collection=collection,
        device=row.device,
        camera=row.camera,
        track_id=row.shown_track_id or row.track_id,
        tracks=row.tracks,
        merged_into=row.merged_into,
        decision=cast(Decision, row.decision),
        person=person,
        person_erased=row.person_erased,
        similarity=row.similarity,
        threshold=row.threshold,
        shots=row.shots,
        candidates=candidates,
        quality=Quality.model_validate(row.quality),
        liveness=row.liveness,
        live=row.live,
        captured_at=row.captured_at,
        received_at=row.received_at,
        expires_at=row.expires_at,
        first_captured_at=row.first_captured_at,
        last_captured_at=row.last_captured_at,
        probes=row.probes,
        box=(x1, y1, x2, y2),
        frame_size=(width, height),
        snapshot=None
        if row.snapshot is None
        else f"/v1/events/{row.id}/snapshot?revision={row.revision}",
        review=cast(Review | None, row.review),
        local=_local_view(row, local_person),
    )


def _local_view(row: Event, person: PersonName | None) -> LocalView | None:
    if row.local_decision is None:
        return None
    decided = row.decision, row.person_number
    return LocalView(
        decision=cast(Decision, row.local_decision),
        person=person,
        similarity=row.local_similarity,
        agrees=decided == (row.local_decision, row.local_person_number),
    )
