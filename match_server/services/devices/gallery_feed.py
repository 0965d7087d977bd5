"""The change feed for followers: a snapshot of a gallery, and the changes after it.

Entries of the feed say that something changed; a follower gets the present state of it. So the
result is the same however many entries it has missed, an entry may come twice, and erased data is
never sent. A snapshot is read in portions without a lock: a change during that time has an entry
after the number of the snapshot, and comes with the changes. The feed is never shortened, so a
follower may come back after any time.

After a failover or a restore the feed goes on in another epoch (docs/feed.md). The scope that a
follower sends back names the epoch of its number, so it gets 410 and takes a new snapshot if it has
read changes that the database does not have.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select
from sqlalchemy.orm import Session

from match_server.db.database import Database, Reader
from match_server.db.tables import Change, Group, Membership, Person, Template
from match_server.schemas.feed import ChangesQuery, SnapshotQuery
from match_server.services.auth.keys import Principal
from match_server.services.collection_ref import CollectionRef, collection_ref
from match_server.services.devices.followers import Followers, Grant
from match_server.services.encryption.stored_templates import TEMPLATES, read_templates
from match_server.services.encryption.vault import Cipher, Vault
from match_server.services.lookups import batches
from match_server.services.policy.operating_point import OperatingPoint, OperatingPoints
from match_server.services.revision import FeedPosition, feed_position, shared_with
from shared.clock import Clock
from shared.errors import Forbidden, MalformedInput, SnapshotNeeded
from shared.wire.change_feed import (
    FeedChanges,
    FeedPerson,
    FeedTemplates,
    Gallery,
    SnapshotEnd,
    SnapshotHead,
    SnapshotPart,
)

_LINES = 1000  # entries of the feed in one response
_SHARED = 8  # responses that followers share
_SHARED_FOR = timedelta(seconds=1)  # persons may expire meanwhile
_PART = 1000  # templates in one line of a snapshot: 1.4 MB at 512 values


@dataclass(frozen=True, slots=True)
class Followed:
    """One collection, with the part of it that one follower may hold."""

    scope: CollectionRef
    grant: Grant

    @property
    def mark(self) -> str:
        """A digest of all of that: if it changes, a follower needs a new snapshot."""
        scope = self.scope
        parts = [str(scope.number), scope.created_at.isoformat(), scope.model_id]
        parts.append(str(scope.generation))
        parts += [str(self.grant.names), *self.grant.groups]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def gallery(self, point: OperatingPoint, epoch: str) -> Gallery:
        """The description for followers, with the operating point of this moment."""
        return Gallery(
            collection=self.scope.name,
            scope=f"{self.mark}.{epoch}",
            model_id=self.scope.model_id,
            dimension=self.scope.dimension,
            threshold=point.threshold,
            margin=point.margin,
        )

    def holds(self, now: datetime) -> ColumnElement[bool]:
        """The condition for persons of the gallery: in the collection and groups, not expired."""
        persons = (Person.collection_number == self.scope.number) & or_(
            Person.expires_at.is_(None), Person.expires_at > now
        )
        if self.grant.groups:
            members = (
                select(Membership.person_number)
                .join(Group, Group.number == Membership.group_number)
                .where(
                    Group.collection_number == self.scope.number, Group.id.in_(self.grant.groups)
                )
            )
            persons &= Person.number.in_(members)
        return persons


class Feed:
    """Reads the change feed for followers."""

    def __init__(
        self,
        database: Database,
        followers: Followers,
        clock: Clock,
        vault: Vault,
        points: OperatingPoints,
    ) -> None:
        self._database = database
        self._vault = vault
        self._points = points
        self._followers = followers
        self._clock = clock
        self._lock = threading.Lock()  # guards the shared responses
        self._shared_at: FeedPosition | None = None
        self._shared: dict[tuple[str, int], FeedChanges] = {}  # by mark and `since`

    def followed(self, query: ChangesQuery | SnapshotQuery, principal: Principal) -> Followed:
        """The part of the requested collection that this key may follow.

        Raises Forbidden if it may follow nothing, NotFound for an unknown collection.
        """
        scope = collection_ref(self._database, query.collection)
        if principal.role != "device":
            groups = tuple(sorted(set(query.groups)))
            return Followed(scope, Grant(None, groups, names=True))
        if query.groups:
            raise MalformedInput("groups: a device follows the granted groups and may not name any")
        device = principal.device
        if device is None or query.device not in (None, device):
            raise Forbidden(f"this key is for device {device!r}, not for {query.device!r}")
        return Followed(scope, self._followers.grant(device, scope.number))

    def acknowledge(self, followed: Followed, query: ChangesQuery) -> None:
        """Store that the follower has all changes up to `since` on its disk.

        Raises SnapshotNeeded if the follower has to take a new snapshot.
        """
        self._followers.acknowledge(
            followed.grant,
            followed.scope.number,
            query.since,
            query.keep_h,
            lambda session: _followable(session, followed, query),
        )

    def changes(self, followed: Followed, query: ChangesQuery) -> FeedChanges:
        """The changes after `since`, at most a thousand entries. Raises as `acknowledge`.

        After a change many followers send the same request: they share a response until the next
        change.
        """
        now, key = self._clock.now(), (followed.mark, query.since)
        point = self._points.of_tracks(followed.scope)
        newest = _followable(self._database, followed, query)
        with self._lock:
            if self._shared_at != newest:
                self._shared_at, self._shared = newest, {}
            shared = self._shared.get(key)
        if shared is not None and now - shared.at < _SHARED_FOR:
            gallery = followed.gallery(point, newest.epoch)
            return shared.model_copy(update={"gallery": gallery, "at": now})
        with self._database.read() as session:
            newest = _followable(session, followed, query)
            gallery = followed.gallery(point, newest.epoch)
            changes = self._read(session, followed, gallery, query.since, newest.seq, now)
        with self._lock:
            if self._shared_at == newest and len(self._shared) < _SHARED:
                self._shared[key] = changes
        return changes

    def _read(
        self,
        session: Session,
        followed: Followed,
        gallery: Gallery,
        since: int,
        newest: int,
        now: datetime,
    ) -> FeedChanges:
        lines = session.execute(
            select(Change.seq, Change.kind, Change.subject, Change.template_number)
            .where(
                Change.collection_number == followed.scope.number,
                Change.seq > since,
                Change.seq <= newest,
            )
            .order_by(Change.seq)
            .limit(_LINES)
        ).all()
        more = len(lines) == _LINES
        cipher = self._vault.cipher(session, followed.scope)
        left, persons, templates = _current_state(session, followed, lines, now, cipher)
        return FeedChanges(
            gallery=gallery,
            seq=lines[-1].seq if more else newest,
            more=more,
            at=now,
            left=left,
            removed=[line.template_number for line in lines if line.kind == "template_removed"],
            persons=persons,
            templates=templates,
        )

    def has_moved(self, followed: Followed, since: int) -> bool:
        """Whether the collection has changed after `since`."""
        line = select(Change.seq).where(
            Change.collection_number == followed.scope.number, Change.seq > since
        )
        with self._database.read() as session:
            return feed_position(session).seq > since and session.scalar(line.limit(1)) is not None

    def snapshot(self, followed: Followed, query: SnapshotQuery) -> Iterator[bytes]:
        """The whole gallery as lines of JSON: a head, parts, and an end with their digest.

        Each part has its own transaction, so memory and transactions do not grow with the gallery.
        Raises SnapshotNeeded when the database is replaced meanwhile: what was sent may not be in
        it.
        """
        self._database.settle_epoch()  # else a part of before a failover could seem to be of now
        feed = feed_position(self._database)
        self._followers.acknowledge(followed.grant, followed.scope.number, 0, query.keep_h)
        point = self._points.of_tracks(followed.scope)
        gallery = followed.gallery(point, feed.epoch)
        yield _line(SnapshotHead(gallery=gallery, seq=feed.seq, at=self._clock.now()))
        digest, count, after = hashlib.sha256(), 0, query.after
        while True:
            part, now = self._part(followed, after)
            if now.epoch != feed.epoch or now.seq < feed.seq:
                raise SnapshotNeeded("the feed is in another epoch: take another snapshot")
            if part is None:
                break
            feed = now
            line = _line(part)
            digest.update(line)
            count += len(part.templates.numbers)
            after = part.after
            yield line
        yield _line(SnapshotEnd(templates=count, sha256=digest.hexdigest()))

    def _part(self, followed: Followed, after: int) -> tuple[SnapshotPart | None, FeedPosition]:
        """Templates after a number, None when there are no more; and when they were read."""
        now = self._clock.now()
        with self._database.read() as session:
            feed = feed_position(session)
            rows = session.execute(
                templates_of(followed, now)
                .where(Template.number > after)
                .order_by(Template.number)
                .limit(_PART)
            ).all()
            if not rows:
                return None, feed
            numbers = {row.person_number for row in rows}
            records = _persons(session, followed, Person.number, sorted(numbers))
            part = SnapshotPart(
                after=rows[-1].number,
                persons=[_feed_person(row, followed) for row in records],
                templates=_packed(rows, followed, self._vault.cipher(session, followed.scope)),
            )
            return part, feed


def _followable(reader: Reader, followed: Followed, query: ChangesQuery) -> FeedPosition:
    """The position of the feed. Raises SnapshotNeeded if the follower cannot go on from its own."""
    newest = feed_position(reader)
    mark, epoch = followed.mark, newest.epoch
    if query.scope is not None:
        mark, _, epoch = query.scope.partition(".")  # without an epoch: of an older version
    if mark != followed.mark:
        raise SnapshotNeeded(
            "the gallery that this follower may hold has changed: take a snapshot", seq=newest.seq
        )
    shared = shared_with(reader, newest, epoch)
    if shared is None or query.since > shared:
        known = "nothing" if shared is None else f"the changes up to {shared}"
        raise SnapshotNeeded(
            f"of the feed that this follower has read up to {query.since}, this database has "
            f"{known}: it is another database, was restored from a backup, or took over in a "
            "failover; take a snapshot",
            seq=newest.seq,
        )
    return newest


def _current_state(
    session: Session, followed: Followed, lines: Sequence[Any], now: datetime, cipher: Cipher
) -> tuple[list[int], list[FeedPerson], FeedTemplates]:
    """The present state of the persons in these entries: who left, who is in, their templates.

    For an edited person all templates are sent, because the edit may have added the person.
    """
    subjects = {line.subject for line in lines if line.kind in ("person_created", "person_updated")}
    added = [line.template_number for line in lines if line.kind == "template_added"]
    edited = _persons(session, followed, Person.id, sorted(subjects))
    templates = _some(session, followed, Template.number, added, now)
    owners = {row.person_number for row in templates} - {row.number for row in edited}
    persons = [*edited, *_persons(session, followed, Person.number, sorted(owners))]
    numbers = [row.number for row in persons]
    inside = _inside(session, followed, numbers, now)
    whole = [row.number for row in edited if row.number in inside]
    known = {row.number for row in templates}
    templates += [
        row
        for row in _some(session, followed, Template.person_number, whole, now)
        if row.number not in known
    ]
    return (
        [number for number in numbers if number not in inside],
        [_feed_person(row, followed) for row in persons if row.number in inside],
        _packed([row for row in templates if row.person_number in inside], followed, cipher),
    )


def _persons(
    session: Session, followed: Followed, column: Any, values: Sequence[int | str]
) -> list[Any]:
    columns = select(Person.number, Person.id, Person.name, Person.expires_at).where(
        Person.collection_number == followed.scope.number
    )
    return [
        row
        for batch in batches(values)
        for row in session.execute(columns.where(column.in_(batch)).order_by(Person.number))
    ]


def _inside(
    session: Session, followed: Followed, numbers: Sequence[int], now: datetime
) -> set[int]:
    """The persons of these numbers that are in the gallery."""
    return {
        number
        for batch in batches(numbers)
        for number in session.scalars(
            select(Person.number).where(followed.holds(now), Person.number.in_(batch))
        )
    }


def _some(
    session: Session, followed: Followed, column: Any, values: Sequence[int], now: datetime
) -> list[Any]:
    """Templates of the gallery, by their numbers or by those of their persons."""
    return [
        row
        for batch in batches(values)
        for row in session.execute(
            templates_of(followed, now).where(column.in_(batch)).order_by(Template.number)
        )
    ]


def templates_of(followed: Followed, now: datetime) -> Select[*tuple[Any, ...]]:
    """The templates that a follower may hold at this moment."""
    return (
        TEMPLATES.add_columns(Template.person_number)
        .join(Person, Person.number == Template.person_number)
        .where(
            Template.collection_number == followed.scope.number,
            Template.model_id == followed.scope.model_id,  # not of the next or previous model
            followed.holds(now),
        )
    )


def _packed(rows: Sequence[Any], followed: Followed, cipher: Cipher) -> FeedTemplates:
    """Templates in the form for devices, without the damaged ones."""
    scope = followed.scope
    read = read_templates(cipher, scope.model_id, scope.dimension, rows)
    owners = {row.number: row.person_number for row in rows}
    return FeedTemplates.pack(
        [
            (number, owners[number], vector.tobytes())
            for number, vector in zip(read.numbers.tolist(), read.vectors, strict=True)
        ]
    )


def _feed_person(row: Any, followed: Followed) -> FeedPerson:
    return FeedPerson(
        number=row.number,
        id=row.id,
        name=row.name if followed.grant.names else None,
        expires_at=row.expires_at,
    )


def _line(message: SnapshotHead | SnapshotPart | SnapshotEnd) -> bytes:
    return message.model_dump_json(exclude_none=True).encode() + b"\n"
