"""Reads events: in pages, singly, and as a live stream."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Literal

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import Collection, Event, Person, Template
from match_server.schemas.base import Page
from match_server.schemas.events import EventQuery, EventView, StreamQuery
from match_server.services.change_feed import position
from match_server.services.encryption.vault import Cipher, Vault
from match_server.services.lookups import count_of, numbers_of
from match_server.services.paging import page_of
from match_server.services.sightings.event_views import views_of_events
from match_server.services.storage.files import FileStore
from shared.clock import Clock
from shared.errors import NotFound

_BATCH = 100


Kind = Literal["created", "updated", "merged"]


@dataclass(frozen=True, slots=True)
class Update:
    """One message of the live stream; `merged`: the sighting became part of another."""

    kind: Kind
    event: EventView


class Events:
    """Reading events."""

    def __init__(self, database: Database, files: FileStore, vault: Vault, clock: Clock) -> None:
        self._database = database
        self.commit_signal = database.commit_signal
        self._files = files
        self._vault = vault
        self._clock = clock

    def page(self, query: EventQuery) -> Page[EventView]:
        """Events, newest first."""
        statement = _filtered(select(Event).where(Event.merged_into.is_(None)), query)
        if query.since is not None:
            statement = statement.where(Event.received_at >= query.since)
        if query.until is not None:
            statement = statement.where(Event.received_at < query.until)
        with self._database.read() as session:
            newest_first = Event.received_at.desc(), Event.id.desc()
            views = partial(views_of_events, session)
            return page_of(session, statement, query, *newest_first, views=views)

    def get(self, event_id: str) -> EventView:
        with self._database.read() as session:
            view = event_view(session, event_id)
        if view is None:
            raise NotFound(f"there is no event {event_id!r}")
        return view

    def snapshot(self, event_id: str) -> bytes:
        """The JPEG thumbnail. Raises NotFound when there is none."""
        try:
            return self._snapshot(event_id)
        except NotFound:  # a better snapshot may have replaced it just now
            return self._snapshot(event_id)

    def _snapshot(self, event_id: str) -> bytes:
        with self._database.read() as session:
            row = session.get(Event, event_id)
            if row is None or row.snapshot is None:
                raise NotFound(f"there is no snapshot of event {event_id!r}")
            collection = session.get(Collection, row.collection_number)
            cipher = Cipher(0) if collection is None else self._vault.cipher(session, collection)
        return self._files.read(row.snapshot, cipher=cipher)

    def revision(self) -> int:
        """The number of the last write to any event."""
        with self._database.read() as session:
            return position(session, "events")

    def persons(self, now: datetime) -> int:
        """How many persons have a template and have not expired."""
        enrolled = select(Template.number).where(Template.person_number == Person.number).exists()
        unexpired = Person.expires_at.is_(None) | (Person.expires_at > now)
        with self._database.read() as session:
            return count_of(session, select(func.count()).where(enrolled, unexpired))

    def since(self, revision: int, query: StreamQuery) -> tuple[list[Update], int]:
        """The events written after a revision, in order, and the revision that is reached."""
        with self._database.read() as session:
            newest = position(session, "events")
            if revision >= newest:
                return [], newest
            statement = _filtered(select(Event), query).where(Event.revision > revision)
            rows = session.scalars(statement.order_by(Event.revision).limit(_BATCH)).all()
            reached = rows[-1].revision if len(rows) == _BATCH else newest
            now = self._clock.now()
            views = views_of_events(session, rows)
            updates = [
                _update(row, view, revision, now) for row, view in zip(rows, views, strict=True)
            ]
            return updates, reached


def event_view(session: Session, event_id: str) -> EventView | None:
    """One event as clients see it; None when there is none."""
    by_id = select(Event).where(Event.id == event_id)
    rows = session.scalars(by_id.execution_options(populate_existing=True)).all()
    views = views_of_events(session, rows)
    return views[0] if views else None


def rows_with_views(session: Session, statement: Select[Event]) -> list[tuple[Event, EventView]]:
    """The events of a query, each with what clients see of it."""
    rows = session.scalars(statement).all()
    return list(zip(rows, views_of_events(session, rows), strict=True))


def as_of(view: EventView, now: datetime) -> EventView:
    """The event at this time: `live` only as long as a client may act on it.

    An event is sent again when it changes and when a stream resumes; an expired event must not be
    live then.
    """
    live = view.live and now <= view.expires_at and view.merged_into is None
    live = live and not view.person_erased
    return view if live == view.live else view.model_copy(update={"live": live})


def _filtered(statement: Select[Event], query: EventQuery | StreamQuery) -> Select[Event]:
    if query.camera is not None:
        statement = statement.where(Event.camera == query.camera)
    if query.decision is not None:
        statement = statement.where(Event.decision == query.decision)
    if query.collection is not None:
        statement = statement.where(Event.collection_number.in_(numbers_of(query.collection)))
    if query.person is not None:
        persons = select(Person.number).where(Person.id == query.person)
        statement = statement.where(Event.person_number.in_(persons))
    return statement


def _update(row: Event, view: EventView, seen: int, now: datetime) -> Update:
    if row.merged_into is not None:
        return Update("merged", view)
    kind: Kind = "created" if row.created_revision > seen else "updated"
    return Update(kind, as_of(view, now))
