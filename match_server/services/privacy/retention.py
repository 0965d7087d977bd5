"""Retention: deleting what is older than the settings allow, in small portions.

Transactions are small, so that enrollment and probes do not wait for them. Each has an entry with
counts in the audit log.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from pydantic import JsonValue
from sqlalchemy import ColumnElement, delete, false, func, select, update
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import Collection, Event, EventTemplate, Person, Probe
from match_server.schemas.collections import stored_policy
from match_server.schemas.retention import Retention, Swept
from match_server.services.audit.chain import Note, note
from match_server.services.lookups import count_of
from match_server.services.privacy.erasure import Erasures
from match_server.services.storage.files import FileStore
from shared.clock import Clock
from shared.errors import NotFound

_AT_ONCE = 200  # rows in one transaction


class Periods(Protocol):
    """The settings of the server, for collections without settings of their own."""

    @property
    def retain_events_days(self) -> float: ...
    @property
    def retain_snapshots_days(self) -> float: ...
    @property
    def retain_unknown_days(self) -> float: ...
    @property
    def erase_expired_after_days(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class _Limits:
    """For one collection: what is older than these moments is deleted. None: nothing is."""

    number: int | None  # None: sightings of deleted collections
    name: str | None
    events: datetime | None
    snapshots: datetime | None
    unknown: datetime | None
    expired: datetime | None


class RetentionSweep:
    """Deletes what is older than settings and policies allow."""

    def __init__(
        self,
        database: Database,
        files: FileStore,
        erasures: Erasures,
        clock: Clock,
        periods: Periods,
        count: Callable[[str, int], None] = lambda kind, number: None,
    ) -> None:
        """`count` is called with a kind and a number: events, snapshots, probes, persons."""
        self._database = database
        self._files = files
        self._erasures = erasures
        self._clock = clock
        self._periods = periods
        self._count = count

    def preview(self) -> list[Swept]:
        """The counts that `run` would delete now, by collection."""
        with self._database.read() as session:
            return [_counted(session, limits) for limits in self._limits(session)]

    def run(self) -> list[Swept]:
        """Delete what is too old. Returns the counts by collection."""
        with self._database.read() as session:
            all_limits = self._limits(session)
        swept = [self._sweep(limits) for limits in all_limits]
        for counts in swept:
            for kind in ("events", "snapshots", "probes", "persons"):
                self._count(kind, getattr(counts, kind))
        if any(counts.anything for counts in swept):
            self._files.sweep()
        return swept

    def _sweep(self, limits: _Limits) -> Swept:
        events = unknown = snapshots = probes = 0
        while counts := self._delete_events(limits):
            events, unknown = events + counts.events, unknown + counts.unknown
            snapshots, probes = snapshots + counts.snapshots, probes + counts.probes
        while taken := self._delete_snapshots(limits):
            snapshots += taken
        while self._delete_templates(limits):
            pass
        return Swept(
            collection=limits.name,
            events=events,
            unknown=unknown,
            snapshots=snapshots,
            probes=probes,
            persons=self._erase_persons(limits),
        )

    def _delete_events(self, limits: _Limits) -> Swept | None:
        """Delete one portion of sightings with probes and thumbnails; None if there are none."""
        chosen = select(Event.id, Event.decision, Event.snapshot).where(_old_events(limits))
        with self._database.read() as session:  # mostly nothing to delete: no lock needed
            if session.execute(chosen.limit(1)).first() is None:
                return None
        with self._database.write() as session:
            rows = session.execute(chosen.limit(_AT_ONCE)).all()
            ids = [row.id for row in rows]
            snapshots = self._files.doom_snapshots(session, [row.snapshot for row in rows])
            deleted = session.execute(
                delete(Probe).where(Probe.event_id.in_(ids)).returning(Probe.id)
            )
            swept = Swept(
                collection=limits.name,
                events=len(ids),
                unknown=sum(row.decision == "unknown" for row in rows),
                snapshots=snapshots,
                probes=len(deleted.all()),
            )
            session.execute(delete(Event).where(Event.id.in_(ids)))
            counts: dict[str, JsonValue] = swept.model_dump(
                exclude={"collection", "persons"}, exclude_defaults=True
            )
            self._note(session, "retention_events", limits, counts)
        return swept if ids else None

    def _delete_snapshots(self, limits: _Limits) -> int:
        """Delete one portion of thumbnails of sightings that stay."""
        chosen = select(Event.id, Event.snapshot).where(_old_snapshots(limits))
        with self._database.read() as session:
            if session.execute(chosen.limit(1)).first() is None:
                return 0
        with self._database.write() as session:
            rows = session.execute(chosen.limit(_AT_ONCE)).all()
            self._files.doom_snapshots(session, [row.snapshot for row in rows])
            session.execute(
                update(Event)
                .where(Event.id.in_([row.id for row in rows]))
                .values(snapshot=None, data_key=None)
            )
            self._note(session, "retention_snapshots", limits, {"snapshots": len(rows)})
        return len(rows)

    def _delete_templates(self, limits: _Limits) -> bool:
        """Delete one portion of templates of sightings, which are kept as long as thumbnails."""
        old = _of(limits) & _older(limits.snapshots)
        chosen = select(EventTemplate.id).join(Event, Event.id == EventTemplate.event_id).where(old)
        with self._database.read() as session:
            ids = session.scalars(chosen.limit(_AT_ONCE)).all()
        if not ids:
            return False
        with self._database.write() as session:
            session.execute(delete(EventTemplate).where(EventTemplate.id.in_(ids)))
            self._note(session, "retention_templates", limits, {"templates": len(ids)})
        return True

    def _erase_persons(self, limits: _Limits) -> int:
        """Erase expired persons, each with a certificate. Returns their number."""
        if limits.name is None:
            return 0
        with self._database.read() as session:
            persons = session.scalars(select(Person.id).where(_expired(limits))).all()
        erased = 0
        for person in persons:
            try:
                self._erasures.erase(limits.name, person)
            except NotFound:  # another process has erased the person
                continue
            erased += 1
        return erased

    def _note(
        self, session: Session, action: str, limits: _Limits, counts: dict[str, JsonValue]
    ) -> None:
        number = limits.number
        entry = Note(action, self._clock.now(), collection_number=number, details=counts)
        note(session, entry)

    def _limits(self, session: Session) -> list[_Limits]:
        collections: Sequence[Collection] = session.scalars(
            select(Collection).order_by(Collection.number)
        ).all()
        return [
            *(
                self._limits_of(row.number, row.name, stored_policy(row.policy).retention)
                for row in collections
            ),
            self._limits_of(None, None, None),
        ]

    def _limits_of(self, number: int | None, name: str | None, own: Retention | None) -> _Limits:
        own = own or Retention()
        server = self._periods
        grace = _first(own.erase_expired_after_days, server.erase_expired_after_days)
        now = self._clock.now()
        return _Limits(
            number=number,
            name=name,
            events=_before(now, _first(own.events_days, server.retain_events_days)),
            snapshots=_before(now, _first(own.snapshots_days, server.retain_snapshots_days)),
            unknown=_before(now, _first(own.unknown_days, server.retain_unknown_days)),
            expired=None if grace is None else now - timedelta(days=grace),
        )


def _first(own: float | None, server: float | None) -> float | None:
    return server if own is None else own


def _before(now: datetime, days: float | None) -> datetime | None:
    """The moment that many days ago; None for 0 days, which means for ever."""
    return now - timedelta(days=days) if days else None


def _of(limits: _Limits) -> ColumnElement[bool]:
    if limits.number is None:
        return Event.collection_number.is_(None)
    return Event.collection_number == limits.number


def _older(moment: datetime | None) -> ColumnElement[bool]:
    return false() if moment is None else Event.received_at < moment


def _old_events(limits: _Limits) -> ColumnElement[bool]:
    unmatched = (Event.decision == "unknown") & _older(limits.unknown)
    return _of(limits) & (_older(limits.events) | unmatched)


def _old_snapshots(limits: _Limits) -> ColumnElement[bool]:
    return _of(limits) & Event.snapshot.is_not(None) & _older(limits.snapshots)


def _expired(limits: _Limits) -> ColumnElement[bool]:
    if limits.expired is None:
        return false()
    of_collection = Person.collection_number == limits.number
    return of_collection & Person.expires_at.is_not(None) & (Person.expires_at <= limits.expired)


def _counted(session: Session, limits: _Limits) -> Swept:
    """The counts that would be deleted of one collection."""

    def count(which: ColumnElement[bool]) -> int:
        return count_of(session, select(func.count()).where(which))

    events = _old_events(limits)
    thumbnails = _old_snapshots(limits) | (events & Event.snapshot.is_not(None))
    probes = select(func.count()).select_from(Probe).join(Event, Event.id == Probe.event_id)
    return Swept(
        collection=limits.name,
        events=count(events),
        unknown=count(events & (Event.decision == "unknown")),
        snapshots=count(thumbnails),
        probes=count_of(session, probes.where(events)),
        persons=count(_expired(limits)),
    )
