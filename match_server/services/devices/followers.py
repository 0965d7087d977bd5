"""Followers: which boxes may hold which galleries, and what each has acknowledged.

A row outlives its withdrawal until the box has been told: an erasure must not count as complete
while a box that nobody has spoken to may still hold the person.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Row, Select, delete, func, select, update
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import Change, Collection, Device, Follower, Group
from match_server.schemas.base import Page
from match_server.schemas.feed import FollowerQuery, FollowerView, GalleriesPut, Granted
from match_server.services.change_feed import record
from match_server.services.lookups import collection_named, groups_of
from match_server.services.paging import each, page_of_rows
from shared.clock import Clock
from shared.errors import Conflict, Forbidden, MalformedInput, NotFound
from shared.ids import is_name

_ACKNOWLEDGED_EVERY = timedelta(seconds=60)
"""How often it is written down that a follower is where it was."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What one follower of one collection may hold."""

    device_number: int | None  # None: somebody who may read everything, and is not kept count of
    groups: tuple[str, ...]  # ids, ascending; none: everybody
    names: bool


class Followers:
    """Granting, withdrawing, acknowledging."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def put(self, device: str, wanted: GalleriesPut) -> Page[FollowerView]:
        """Let a device hold exactly these galleries. A device that is not known is entered.

        Raises NotFound for a collection or group that does not exist, Conflict for a collection
        that is named twice.
        """
        if not is_name(device):
            raise MalformedInput(f"{device!r} is no name of a device")
        now = self._clock.now()
        with self._database.write() as session:
            number = _device_number(session, device)
            kept = set[int]()
            for granted in wanted.galleries:
                owner = collection_named(session, granted.collection)
                if owner.number in kept:
                    raise Conflict(f"the collection {owner.name!r} is named twice")
                kept.add(owner.number)
                groups_of(session, granted.groups, owner)
                row = session.get(Follower, (number, owner.number))
                if row is None:
                    row = Follower(
                        device_number=number, collection_number=owner.number, granted_at=now
                    )
                    session.add(row)
                wanted_now = sorted(set(granted.groups)), granted.names
                if row.withdrawn_at is None and wanted_now == (row.groups, row.names):
                    continue
                (row.groups, row.names), row.withdrawn_at = wanted_now, None
                session.flush()
                # A line in the feed, so that a box which waits for one learns of it now.
                record(session, owner.number, "gallery_granted", device, now)
            _withdraw(session, device, number, kept, now)
        return self.page(FollowerQuery(device=device, size=1000))

    def given(self, device: str) -> list[Granted]:
        """What a device may hold now."""
        held = self.page(FollowerQuery(device=device, size=1000)).items
        return [
            Granted(collection=one.collection, groups=one.groups, names=one.names)
            for one in held
            if one.withdrawn_at is None
        ]

    def group_ids(self, collection: str, said: Sequence[str]) -> list[str]:
        """The ids of groups that a person names, by id or by name.

        Raises NotFound where there is none.
        """
        with self._database.read() as session:
            owner = collection_named(session, collection)
            query = select(Group.id, Group.name).where(Group.collection_number == owner.number)
            groups = [(row.id, row.name) for row in session.execute(query)]
        ids = {name: key for key, name in groups} | {key: key for key, _ in groups}
        for one in said:
            if one not in ids:
                names = ", ".join(repr(name) for _, name in groups[:20]) or "none"
                raise NotFound(f"{collection!r} has no group {one!r}; it has {names}")
        return [ids[one] for one in said]

    def page(self, query: FollowerQuery) -> Page[FollowerView]:
        """Followers by device and collection."""
        with self._database.read() as session:
            wanted = _VIEWED
            if query.device is not None:
                wanted = wanted.where(Device.name == query.device)
            if query.collection is not None:
                wanted = wanted.where(Collection.name == query.collection)
            if query.behind is not None:
                wanted = wanted.where(_has_not_reached(query.behind))
            by_name = Device.name, Collection.name
            return page_of_rows(session, wanted, query, *by_name, views=each(_view))

    def grant(self, device: str, collection_number: int) -> Grant:
        """What a device may hold of a collection.

        Raises Forbidden when that is nothing; a box forgets what it holds when it is told so, so
        this ends a withdrawal.
        """
        known = (
            select(Follower)
            .join(Device, Device.number == Follower.device_number)
            .where(Device.name == device, Follower.collection_number == collection_number)
        )
        with self._database.read() as session:
            row = session.scalars(known).one_or_none()
        if row is not None and row.withdrawn_at is None:
            return Grant(row.device_number, tuple(row.groups), row.names)
        if row is not None:
            withdrawn = (
                (Follower.device_number == row.device_number)
                & (Follower.collection_number == collection_number)
                & Follower.withdrawn_at.is_not(None)
            )
            with self._database.write() as session:
                session.execute(delete(Follower).where(withdrawn))
        raise Forbidden(
            f"device {device!r} is not to hold this collection; an admin gives it with "
            f"`match-server device gallery --device {device} --give COLLECTION`"
        )

    def acknowledge(
        self, grant: Grant, collection_number: int, seq: int, keep_h: float | None
    ) -> None:
        """A follower has everything up to `seq` on its disk; 0 when it begins a snapshot."""
        if grant.device_number is None:
            return
        now = self._clock.now()
        key = grant.device_number, collection_number
        with self._database.read() as session:
            row = session.get(Follower, key)
        if row is None:
            return
        forgets = now + timedelta(hours=keep_h) if keep_h is not None else None
        fresh = row.spoke_at is not None and now - row.spoke_at < _ACKNOWLEDGED_EVERY
        if fresh and row.seq == seq and (row.forgets_at is None) == (forgets is None):
            return
        with self._database.write() as session:
            session.execute(
                update(Follower)
                .where(Follower.device_number == key[0], Follower.collection_number == key[1])
                .values(seq=seq, spoke_at=now, forgets_at=forgets)
            )


def followers_behind(session: Session, collection_number: int, seq: int) -> Sequence[FollowerView]:
    """The boxes that may still hold what change `seq` of a collection erased.

    One that has never asked for the collection holds nothing of it and is not among them.
    """
    wanted = _VIEWED.where(Follower.collection_number == collection_number, _has_not_reached(seq))
    return [_view(row) for row in session.execute(wanted.order_by(Device.name))]


def count_decision(session: Session, device: str, collection_number: int, *, agrees: bool) -> None:
    """Enter that a box decided by itself, and whether this server then decided the same."""
    number = select(Device.number).where(Device.name == device).scalar_subquery()
    session.execute(
        update(Follower)
        .where(Follower.device_number == number, Follower.collection_number == collection_number)
        .values(decided=Follower.decided + 1, disagreed=Follower.disagreed + int(not agrees))
        .execution_options(synchronize_session=False)
    )


_BEHIND = (
    select(func.count())
    .select_from(Change)
    .where(Change.collection_number == Follower.collection_number, Change.seq > Follower.seq)
    .correlate(Follower)
    .scalar_subquery()
)
_VIEWED: Select[Follower, str, str, int] = (
    select(Follower, Device.name, Collection.name, _BEHIND)
    .join(Device, Device.number == Follower.device_number)
    .join(Collection, Collection.number == Follower.collection_number)
)


def _has_not_reached(seq: int) -> ColumnElement[bool]:
    return Follower.seq.is_not(None) & (Follower.seq < seq)


def _view(row: Row[Follower, str, str, int]) -> FollowerView:
    follower, device, collection, behind = row[:4]
    return FollowerView(
        device=device,
        collection=collection,
        groups=follower.groups,
        names=follower.names,
        granted_at=follower.granted_at,
        withdrawn_at=follower.withdrawn_at,
        seq=follower.seq,
        behind=None if follower.seq is None else behind,
        spoke_at=follower.spoke_at,
        forgets_at=follower.forgets_at,
        decided=follower.decided,
        disagreed=follower.disagreed,
    )


def _device_number(session: Session, name: str) -> int:
    row = session.scalars(select(Device).where(Device.name == name)).one_or_none()
    if row is None:
        row = Device(name=name, received=0)
        session.add(row)
        session.flush()
    return row.number


def _withdraw(session: Session, device: str, number: int, kept: set[int], now: datetime) -> None:
    """End what is not kept; at once where the box has never asked for it."""
    ended = select(Follower).where(
        Follower.device_number == number,
        Follower.collection_number.not_in(kept),
        Follower.withdrawn_at.is_(None),
    )
    for row in session.scalars(ended).all():
        record(session, row.collection_number, "gallery_withdrawn", device, now)
        if row.seq is None:
            session.delete(row)
        else:
            row.withdrawn_at = now


__all__ = ["Followers", "Grant", "Granted", "count_decision", "followers_behind"]
