"""What there is to tell: events in the order of their writes, as they are at that moment."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import Device, Event, EventReader, Group, Membership
from match_server.schemas.events import EventView
from match_server.services.change_feed import position
from match_server.services.sightings.queries import as_told, rows_with_views
from shared.clock import Clock


@dataclass(frozen=True, slots=True)
class Told:
    """An event as it is told, with what is needed to choose who is told."""

    event: EventView  # `live` only as long as somebody may act on it
    collection_number: int | None
    groups: frozenset[str]  # ids of the groups that the person is in
    site: str | None  # of the device, where it is known


class Updates:
    """Reading events for those who tell others of them."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def newest(self) -> int:
        """The number of the last write to any event."""
        return position(self._database, "events")

    def after(self, revision: int, limit: int) -> tuple[list[Told], int]:
        """The next events written after a revision, in order, and the revision reached by them."""
        with self._database.read() as session:
            newest = position(session, "events")
            if revision >= newest:
                return [], newest
            wanted = select(Event).where(Event.revision > revision)
            wanted = wanted.order_by(Event.revision).limit(limit)
            rows = rows_with_views(session, wanted)
            last = rows[-1][1].revision if rows else newest
            return self._told(session, rows), last if len(rows) == limit else max(newest, last)

    def these(self, ids: Sequence[str]) -> dict[str, Told]:
        """Events by their ids, as they are now; one that is gone is left out."""
        with self._database.read() as session:
            rows = rows_with_views(session, select(Event).where(Event.id.in_(ids)))
            return {told.event.id: told for told in self._told(session, rows)}

    def reached(self, reader: str) -> int | None:
        """The revision up to which a reader has told everything; None: it has never been here."""
        with self._database.read() as session:
            row = session.get(EventReader, reader)
            return None if row is None else row.revision

    def note_reached(self, reader: str, revision: int) -> None:
        """Remember it; written before that is what a reader who dies will tell again."""
        with self._database.write() as session:
            session.merge(EventReader(name=reader, revision=revision))

    def _told(self, session: Session, rows: Sequence[tuple[Event, EventView]]) -> list[Told]:
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
            Told(
                as_told(view, now),
                row.collection_number,
                frozenset(groups.get(row.person_number, ())),
                sites.get(row.device),
            )
            for row, view in rows
        ]
