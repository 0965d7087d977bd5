"""The change feed as followers read it: what is there (a snapshot), and what happened after.

Lines of the feed say that something changed; what a follower is told is how it is NOW. So what a
follower gets is the same however many lines it has missed, a line that comes twice does no harm,
and what was erased meanwhile cannot be told any more. A snapshot is read in portions without a
lock: what changes while it is being read has a line after its number, and comes with the changes.
The feed is kept complete, so a follower may come back after any time.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import Change, Group, Membership, Person, Template
from match_server.schemas.feed import ChangesQuery, SnapshotQuery
from match_server.services.auth.keys import Principal
from match_server.services.change_feed import position
from match_server.services.collection_ref import CollectionRef, collection_ref
from match_server.services.devices.followers import Followers, Grant
from match_server.services.encryption.stored_templates import read_templates
from match_server.services.encryption.vault import Cipher, Vault
from match_server.services.lookups import batches
from match_server.services.policy.operating_point import OperatingPoint, OperatingPoints
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

_LINES = 1000  # of the feed, in one answer
_SHARED = 8  # answers that followers share, kept at most
_SHARED_FOR = timedelta(seconds=1)  # persons may expire meanwhile
_PART = 1000  # templates in one line of a snapshot: 1.4 MB at 512 values


@dataclass(frozen=True, slots=True)
class Followed:
    """One collection as one follower may see it."""

    scope: CollectionRef
    grant: Grant

    @property
    def mark(self) -> str:
        """Stands for all of that: when it changes, what a follower holds may be wrong."""
        scope = self.scope
        words = [str(scope.number), scope.created_at.isoformat(), scope.model_id]
        words.append(str(scope.generation))
        words += [str(self.grant.names), *self.grant.groups]
        return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]

    def gallery(self, point: OperatingPoint) -> Gallery:
        """What a follower is told of it: a box decides by the point of this moment."""
        return Gallery(
            collection=self.scope.name,
            scope=self.mark,
            model_id=self.scope.model_id,
            dimension=self.scope.dimension,
            threshold=point.threshold,
            margin=point.margin,
        )

    def holds(self, now: datetime) -> ColumnElement[bool]:
        """Which persons are part of it: of the collection, in a group, and not expired."""
        wanted = (Person.collection_number == self.scope.number) & or_(
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
            wanted &= Person.number.in_(members)
        return wanted


class Feed:
    """Reading the change feed on behalf of followers."""

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
        self._lock = threading.Lock()  # guards what is shared
        self._shared_at = -1  # position of the feed
        self._shared: dict[tuple[str, int], FeedChanges] = {}  # by mark and `since`

    def followed(self, query: ChangesQuery | SnapshotQuery, principal: Principal) -> Followed:
        """What this key may follow of what is asked for.

        Raises Forbidden when it is nothing, NotFound when there is no such collection.
        """
        scope = collection_ref(self._database, query.collection)
        if principal.role != "device":
            groups = tuple(sorted(set(query.groups)))
            return Followed(scope, Grant(None, groups, names=True))
        if query.groups:
            raise MalformedInput("groups: a device follows what it was given, and names no groups")
        device = principal.device
        if device is None or query.device not in (None, device):
            raise Forbidden(f"this key speaks for device {device!r}, not for {query.device!r}")
        return Followed(scope, self._followers.grant(device, scope.number))

    def acknowledge(self, followed: Followed, query: ChangesQuery) -> None:
        """Everything up to `since` is durable at the follower.

        Raises SnapshotNeeded when a follower that stands there has to begin anew.
        """
        with self._database.read() as session:
            _require_followable(followed, query, position(session))
        self._followers.acknowledge(
            followed.grant, followed.scope.number, query.since, query.keep_h
        )

    def changes(self, followed: Followed, query: ChangesQuery) -> FeedChanges:
        """What happened after `since`, of at most a thousand lines. Raises as `acknowledge`.

        Many followers ask the same at once when something has happened: they share what was read,
        for as long as the feed stands there.
        """
        now, key = self._clock.now(), (followed.mark, query.since)
        gallery = followed.gallery(self._points.of_tracks(followed.scope))
        newest = position(self._database)
        _require_followable(followed, query, newest)
        with self._lock:
            if self._shared_at != newest:
                self._shared_at, self._shared = newest, {}
            shared = self._shared.get(key)
        if shared is not None and now - shared.at < _SHARED_FOR:
            return shared.model_copy(update={"gallery": gallery, "at": now})
        with self._database.read() as session:
            changes = self._read(session, followed, gallery, query.since, now)
        with self._lock:
            if self._shared_at == newest and len(self._shared) < _SHARED:
                self._shared[key] = changes
        return changes

    def _read(
        self, session: Session, followed: Followed, gallery: Gallery, since: int, now: datetime
    ) -> FeedChanges:
        newest = position(session)
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
        left, persons, templates = _as_they_are(session, followed, lines, now, cipher)
        return FeedChanges(
            gallery=gallery,
            seq=lines[-1].seq if more else newest,
            more=more,
            at=now,
            left=left,
            removed=[one.template_number for one in lines if one.kind == "template_removed"],
            persons=persons,
            templates=templates,
        )

    def has_moved(self, followed: Followed, since: int) -> bool:
        """Whether anything has happened in the collection after `since`."""
        line = select(Change.seq).where(
            Change.collection_number == followed.scope.number, Change.seq > since
        )
        with self._database.read() as session:
            return position(session) > since and session.scalar(line.limit(1)) is not None

    def snapshot(self, followed: Followed, query: SnapshotQuery) -> Iterator[bytes]:
        """Everything as lines of JSON: a head, parts, and an end with their digest.

        Each part is read for itself, so neither memory nor a transaction grows with the gallery.
        """
        with self._database.read() as session:
            seq = position(session)
        self._followers.acknowledge(followed.grant, followed.scope.number, 0, query.keep_h)
        yield _line(
            SnapshotHead(
                gallery=followed.gallery(self._points.of_tracks(followed.scope)),
                seq=seq,
                at=self._clock.now(),
            )
        )
        digest, count, after = hashlib.sha256(), 0, query.after
        while (part := self._part(followed, after)) is not None:
            line = _line(part)
            digest.update(line)
            count += len(part.templates.numbers)
            after = part.after
            yield line
        yield _line(SnapshotEnd(templates=count, sha256=digest.hexdigest()))

    def _part(self, followed: Followed, after: int) -> SnapshotPart | None:
        """Templates after a number; None when there are no more."""
        now = self._clock.now()
        with self._database.read() as session:
            rows = session.execute(
                _templates(followed, now)
                .where(Template.number > after)
                .order_by(Template.number)
                .limit(_PART)
            ).all()
            if not rows:
                return None
            numbers = {row.person_number for row in rows}
            records = _persons(session, followed, Person.number, sorted(numbers))
            return SnapshotPart(
                after=rows[-1].number,
                persons=[_told(row, followed) for row in records],
                templates=_packed(rows, followed, self._vault.cipher(session, followed.scope)),
            )


def _require_followable(followed: Followed, query: ChangesQuery, newest: int) -> None:
    if query.since > newest:
        raise SnapshotNeeded(
            f"the feed stands at {newest}, not at {query.since} or later: it is another one, or "
            "was restored from an older copy; take a snapshot",
            seq=newest,
        )
    if query.scope not in (None, followed.mark):
        raise SnapshotNeeded(
            "what this follower may hold is not what it was: take a snapshot", seq=newest
        )


def _as_they_are(
    session: Session, followed: Followed, lines: Sequence[Any], now: datetime, cipher: Cipher
) -> tuple[list[int], list[FeedPerson], FeedTemplates]:
    """What is now of those whom the lines are about: who left, who is there, their templates.

    Of a person who was edited all templates are told: the edit may have brought them in.
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
        [_told(row, followed) for row in persons if row.number in inside],
        _packed([row for row in templates if row.person_number in inside], followed, cipher),
    )


def _persons(
    session: Session, followed: Followed, column: Any, wanted: Sequence[int | str]
) -> list[Any]:
    columns = select(Person.number, Person.id, Person.name, Person.expires_at).where(
        Person.collection_number == followed.scope.number
    )
    return [
        row
        for some in batches(wanted)
        for row in session.execute(columns.where(column.in_(some)).order_by(Person.number))
    ]


def _inside(
    session: Session, followed: Followed, numbers: Sequence[int], now: datetime
) -> set[int]:
    """Those of the persons that are part of the gallery."""
    return {
        number
        for some in batches(numbers)
        for number in session.scalars(
            select(Person.number).where(followed.holds(now), Person.number.in_(some))
        )
    }


def _some(
    session: Session, followed: Followed, column: Any, wanted: Sequence[int], now: datetime
) -> list[Any]:
    """Templates of the gallery by their numbers, or by their persons'."""
    return [
        row
        for some in batches(wanted)
        for row in session.execute(
            _templates(followed, now).where(column.in_(some)).order_by(Template.number)
        )
    ]


def _templates(followed: Followed, now: datetime) -> Select[int, int, str, bytes]:
    return (
        select(Template.number, Template.person_number, Template.id, Template.vector)
        .join(Person, Person.number == Template.person_number)
        .where(
            Template.collection_number == followed.scope.number,
            Template.model_id == followed.scope.model_id,  # not of one that it has just got
            followed.holds(now),
        )
    )


def _packed(rows: Sequence[Any], followed: Followed, cipher: Cipher) -> FeedTemplates:
    """Templates as a box takes them; what cannot be read is left out, as in every search here."""
    stored = [(row.number, row.id, row.vector) for row in rows]
    scope = followed.scope
    read = read_templates(cipher, scope.model_id, scope.dimension, stored)
    owners = {row.number: row.person_number for row in rows}
    return FeedTemplates.pack(
        [
            (number, owners[number], vector.tobytes())
            for number, vector in zip(read.numbers.tolist(), read.vectors, strict=True)
        ]
    )


def _told(row: Any, followed: Followed) -> FeedPerson:
    return FeedPerson(
        number=row.number,
        id=row.id,
        name=row.name if followed.grant.names else None,
        expires_at=row.expires_at,
    )


def _line(message: SnapshotHead | SnapshotPart | SnapshotEnd) -> bytes:
    return message.model_dump_json(exclude_none=True).encode() + b"\n"
