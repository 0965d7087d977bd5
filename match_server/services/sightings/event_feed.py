"""Events in the order of their writes, for webhooks and MQTT."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import Device, Event, EventReader, Group, Membership
from match_server.schemas.events import EventView
from match_server.services.change_feed import position
from match_server.services.sightings.queries import as_of, rows_with_views
from shared.clock import Clock


@dataclass(frozen=True, slots=True)
class EventNotice:
    """An event to be sent, with the fields that the filters of receivers use."""

    event: EventView  # `live` only as long as a client may act on it
    collection_number: int | None
    groups: frozenset[str]  # ids of the groups that the person is in
    site: str | None  # of the device, where it is known


class EventFeed:
    """Reads events for senders of notifications."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def newest(self) -> int:
        """The number of the last write to any event."""
        return position(self._database, "events")

    def after(self, revision: int, limit: int) -> tuple[list[EventNotice], int]:
        """The next events written after a revision, in order, and the revision reached by them."""
        with self._database.read() as session:
            newest = position(session, "events")
            if revision >= newest:
                return [], newest
            statement = select(Event).where(Event.revision > revision)
            statement = statement.order_by(Event.revision).limit(limit)
            rows = rows_with_views(session, statement)
            last = rows[-1][1].revision if rows else newest
            return self._notices(session, rows), last if len(rows) == limit else max(newest, last)

    def these(self, ids: Sequence[str]) -> dict[str, EventNotice]:
        """Events by their ids, as they are now; deleted events are left out."""
        with self._database.read() as session:
            rows = rows_with_views(session, select(Event).where(Event.id.in_(ids)))
            return {notice.event.id: notice for notice in self._notices(session, rows)}

    def reached(self, reader: str) -> int | None:
        """The revision up to which a reader has sent everything; None: the reader is new."""
        with self._database.read() as session:
            row = session.get(EventReader, reader)
            return None if row is None else row.revision

    def note_reached(self, reader: str, revision: int) -> None:
        """Store the revision up to which a reader has sent everything.

        After a crash the reader sends later events again.
        """
        with self._database.write() as session:
            session.merge(EventReader(name=reader, revision=revision))

    def _notices(
        self, session: Session, rows: Sequence[tuple[Event, EventView]]
    ) -> list[EventNotice]:
        if not rows:
            return []
        now = self._clock.now()
        groups: dict[int | None, set[str]] = {}
        members = (
            select(Membership.person_number, Group.id)
            .join(Group, Group.number == Membership.group_number)
            .where(Membership.person_number.in_({row.person_number for row, _ in rows}))
        )
        for person, group in session.execute(members):
            groups.setdefault(person, set()).add(group)
        named = Device.name.in_({row.device for row, _ in rows})
        devices = session.execute(select(Device.name, Device.site).where(named))
        sites = {row.name: row.site for row in devices}
        return [
            EventNotice(
                as_of(view, now),
                row.collection_number,
                frozenset(groups.get(row.person_number, ())),
                sites.get(row.device),
            )
            for row, view in rows
        ]
