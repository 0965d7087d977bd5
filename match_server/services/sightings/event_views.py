"""Events of one transaction as clients see them, with candidates and names read together."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from match_server.db.tables import Collection, Event, EventCandidate, Person
from match_server.schemas.events import EventView
from match_server.schemas.persons import PersonName
from match_server.schemas.search import CandidateView
from match_server.services.lookups import batches
from match_server.services.policy.candidates import views_of
from match_server.services.sightings.best_shot import ProbeOutcome
from match_server.services.sightings.queries import view_of

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


class EventViews:
    """Views of the events of one transaction.

    The candidates of all events are read when one of them is needed first, so the number of
    queries does not grow with the number of probes.
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
        return view_of(event, outcome.collection.name, person, candidates, local)

    def show_earlier(self, event: Event) -> EventView:
        """The event, which shows a probe that was added before."""
        if event.id not in self._candidates:
            self._read()
        return view_of(
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
