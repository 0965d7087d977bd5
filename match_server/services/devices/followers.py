"""Followers: which devices may hold which galleries, and what each has acknowledged.

After a withdrawal a row stays until the device has received it: an erasure is not complete while a
device may still hold the person.
"""

from collections.abc import Callable, Sequence
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

_RENEWED_EVERY = timedelta(minutes=10)
"""How often a follower that differs from the database takes a new snapshot, so that a fault that
stays does not keep it busy."""
_ACKNOWLEDGED_EVERY = timedelta(seconds=60)
"""How often an acknowledgement without progress is stored."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The part of a collection that one follower may hold."""

    device_number: int | None  # None: a client that may read everything and is not recorded
    groups: tuple[str, ...]  # ids, ascending; none: all persons
    names: bool


class Followers:
    """Grants and withdraws galleries, and stores acknowledgements."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def put(self, device: str, request: GalleriesPut) -> Page[FollowerView]:
        """Let a device hold exactly these galleries. Creates the device if it is unknown.

        Raises NotFound for an unknown collection or group, Conflict for a collection that is named
        twice.
        """
        if not is_name(device):
            raise MalformedInput(f"{device!r} is not a valid name of a device")
        now = self._clock.now()
        with self._database.write() as session:
            number = _device_number(session, device)
            kept = set[int]()
            for granted in request.galleries:
                collection = collection_named(session, granted.collection)
                if collection.number in kept:
                    raise Conflict(f"the collection {collection.name!r} is named twice")
                kept.add(collection.number)
                groups_of(session, granted.groups, collection)
                row = session.get(Follower, (number, collection.number))
                if row is None:
                    row = Follower(
                        device_number=number, collection_number=collection.number, granted_at=now
                    )
                    session.add(row)
                scope = sorted(set(granted.groups)), granted.names
                if row.withdrawn_at is None and scope == (row.groups, row.names):
                    continue
                (row.groups, row.names), row.withdrawn_at = scope, None
                session.flush()
                # An entry of the feed, so that a device that waits for changes gets it at once.
                record(session, collection.number, "gallery_granted", device, now)
            _withdraw(session, device, number, kept, now)
        return self.page(FollowerQuery(device=device, size=1000))

    def granted(self, device: str) -> list[Granted]:
        """The galleries that a device may hold now."""
        held = self.page(FollowerQuery(device=device, size=1000)).items
        return [
            Granted(collection=row.collection, groups=row.groups, names=row.names)
            for row in held
            if row.withdrawn_at is None
        ]

    def group_ids(self, collection: str, words: Sequence[str]) -> list[str]:
        """The ids of groups, each given by id or by name. Raises NotFound."""
        with self._database.read() as session:
            number = collection_named(session, collection).number
            query = select(Group.id, Group.name).where(Group.collection_number == number)
            groups = [(row.id, row.name) for row in session.execute(query)]
        ids = {name: key for key, name in groups} | {key: key for key, _ in groups}
        for word in words:
            if word not in ids:
                names = ", ".join(repr(name) for _, name in groups[:20]) or "none"
                raise NotFound(f"{collection!r} has no group {word!r}; it has {names}")
        return [ids[word] for word in words]

    def page(self, query: FollowerQuery) -> Page[FollowerView]:
        """Followers by device and collection."""
        with self._database.read() as session:
            followers = _VIEWED
            if query.device is not None:
                followers = followers.where(Device.name == query.device)
            if query.collection is not None:
                followers = followers.where(Collection.name == query.collection)
            if query.behind is not None:
                followers = followers.where(_has_not_reached(query.behind))
            by_name = Device.name, Collection.name
            return page_of_rows(session, followers, query, *by_name, views=each(_view))

    def grant(self, device: str, collection_number: int) -> Grant:
        """The part of a collection that a device may hold.

        Raises Forbidden if it may hold nothing. The device deletes its gallery on that error, so
        this also completes a withdrawal.
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
            f"device {device!r} may not hold this collection; an admin gives it with "
            f"`match-server device gallery --device {device} --give COLLECTION`"
        )

    def acknowledge(
        self,
        grant: Grant,
        collection_number: int,
        seq: int,
        keep_h: float | None,
        require: Callable[[Session], object] = lambda _: None,
    ) -> None:
        """Store that a follower has all changes up to `seq` on its disk; 0: it reads a snapshot.

        `require` raises if it may not say so. It is called again in the transaction that stores it,
        because the database may have been replaced by another one in between.
        """
        now = self._clock.now()
        key = grant.device_number, collection_number
        with self._database.read() as session:
            require(session)
            row = None if grant.device_number is None else session.get(Follower, key)
        if row is None:
            return
        forgets = now + timedelta(hours=keep_h) if keep_h is not None else None
        fresh = row.spoke_at is not None and now - row.spoke_at < _ACKNOWLEDGED_EVERY
        if fresh and row.seq == seq and (row.forgets_at is None) == (forgets is None):
            return
        with self._database.write() as session:
            require(session)
            session.execute(
                update(Follower)
                .where(Follower.device_number == key[0], Follower.collection_number == key[1])
                .values(seq=seq, spoke_at=now, forgets_at=forgets)
            )

    def agrees(self, key: tuple[int, int]) -> bool:
        """Store that a follower (device and collection) agrees; returns whether it did not."""
        with self._database.read() as session:
            row = session.get(Follower, key)
        if row is None or row.differs is None:
            return False
        self._store(key, differs=None)
        return True

    def differs(self, key: tuple[int, int], why: str) -> bool:
        """Store how a follower differs; returns whether it is to take a new snapshot now."""
        now = self._clock.now()
        with self._database.read() as session:
            row = session.get(Follower, key)
        if row is None:
            return False
        renew = row.renewed_at is None or now - row.renewed_at >= _RENEWED_EVERY
        if renew or row.differs != why:
            self._store(key, differs=why, renewed_at=now if renew else row.renewed_at)
        return renew

    def _store(self, key: tuple[int, int], **values: object) -> None:
        mine = Follower.device_number == key[0], Follower.collection_number == key[1]
        with self._database.write() as session:
            session.execute(update(Follower).where(*mine).values(values))


def followers_behind(session: Session, collection_number: int, seq: int) -> Sequence[FollowerView]:
    """The devices that may still hold data that change `seq` of a collection erased.

    A device that has never requested the collection is not among them.
    """
    behind = _VIEWED.where(Follower.collection_number == collection_number, _has_not_reached(seq))
    return [_view(row) for row in session.execute(behind.order_by(Device.name))]


def count_decision(session: Session, device: str, collection_number: int, *, agrees: bool) -> None:
    """Count a decision of a device, and whether this server decided the same."""
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
        differs=follower.differs,
    )


def _device_number(session: Session, name: str) -> int:
    row = session.scalars(select(Device).where(Device.name == name)).one_or_none()
    if row is None:
        row = Device(name=name, received=0)
        session.add(row)
        session.flush()
    return row.number


def _withdraw(session: Session, device: str, number: int, kept: set[int], now: datetime) -> None:
    """Withdraw all galleries but those in `kept`; at once if the device never requested one."""
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
