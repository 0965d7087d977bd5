"""Compares what devices hold with the database, by the digests that they send.

A device and the server follow the same changes, so they hold the same templates once both are at
the same number. If they do not, no later change would mend it: the device takes a new snapshot.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import Change, Device, Person, Template
from match_server.schemas.feed import ChangesQuery
from match_server.services.devices.followers import Followers
from match_server.services.devices.gallery_feed import Followed, templates_of
from match_server.services.encryption.stored_templates import read_templates
from match_server.services.encryption.vault import Vault
from match_server.services.galleries.comparison import Numbers, stored_hashes
from match_server.services.revision import feed_position
from shared.clock import Clock
from shared.errors import SnapshotNeeded
from shared.wire.template_hash import Hashes, digest_of

log = logging.getLogger(__name__)

_KEPT_S: Final = 60.0
"""For which devices share a digest of the database: also without a change a row may be lost."""
_REST: Final = 20.0
"""After a digest, none of the same templates is computed for so many times as long as it took."""
_MOST_SCOPES: Final = 64
_AT_ONCE: Final = 8192
_ALWAYS: Final = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

Digest = tuple[int, str]
"""The number of templates and their digest."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a follower may hold after change `seq`, while nobody expires."""

    seq: int  # the last change of the collection
    begins: datetime
    ends: datetime
    stored: Digest  # by the hashes in the database
    readable: Digest | None  # by the vectors that can be read; None: not read
    at_s: float  # when it was computed, by the monotonic clock
    again_s: float  # when another may be computed

    def is_of(self, seq: int, at: datetime, now_s: float) -> bool:
        of_then = self.seq == seq and self.begins <= at < self.ends
        return of_then and now_s - self.at_s < _KEPT_S


class FollowerDigests:
    """Compares the digests of devices, and lets those that differ take a new snapshot."""

    def __init__(
        self,
        database: Database,
        followers: Followers,
        vault: Vault,
        clock: Clock,
        on_mend: Callable[[], None],
    ) -> None:
        self._database = database
        self._followers = followers
        self._vault = vault
        self._clock = clock
        self._on_mend = on_mend
        self._lock = threading.Lock()  # one computation at a time
        self._known: dict[tuple[str, str], _Known] = {}
        """By the mark of the followed part and the epoch; the newest `_MOST_SCOPES`."""

    def require_agreement(self, followed: Followed, query: ChangesQuery) -> None:
        """Compare the digest of a request, if it has one and the device has all changes.

        Raises SnapshotNeeded when the device differs, at most once in some minutes for a device.
        """
        number = followed.grant.device_number
        if number is None or query.templates is None or query.digest is None or query.at is None:
            return
        held = query.templates, query.digest
        expected = self._expected(followed, query.since, query.at, held)
        if expected is None:
            return
        key = number, followed.scope.number
        if held == expected:
            if self._followers.agrees(key):
                log.warning("A box agrees with the database again", extra=self._where(followed))
                self._on_mend()
            return
        why = f"the box holds {held[0]} templates, of {expected[0]} that it should hold"
        if held[0] == expected[0]:
            why = f"the box holds {held[0]} templates, and at least one is not as in the database"
        where = self._where(followed)
        log.error("A box differs from the database", extra={**where, "why": why})
        if self._followers.differs(key, why):
            raise SnapshotNeeded(f"{why}: take a snapshot")

    def _where(self, followed: Followed) -> dict[str, str | None]:
        device = select(Device.name).where(Device.number == followed.grant.device_number)
        with self._database.read() as session:
            return {"device": session.scalar(device), "collection": followed.scope.name}

    def _expected(
        self, followed: Followed, since: int, at: datetime, held: Digest
    ) -> Digest | None:
        """The digest that a follower must have at its time `at`; `held` if that is right too.

        None: it cannot be compared now. No thread waits for a digest that another one computes.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            with self._database.read() as session:
                return self._expected_now(session, followed, since, at, held)
        finally:
            self._lock.release()

    def _expected_now(
        self, session: Session, followed: Followed, since: int, at: datetime, held: Digest
    ) -> Digest | None:
        """As `_expected`, with the lock held."""
        number = followed.scope.number
        last = select(func.max(Change.seq)).where(Change.collection_number == number)
        seq, key = session.scalar(last) or 0, (followed.mark, feed_position(session).epoch)
        if seq > since:
            return None
        known = self._known.get(key)
        now_s = self._clock.monotonic_s()
        if known is None or not known.is_of(seq, at, now_s):
            if known is not None and now_s < known.again_s:
                return None
            known = self._computed(session, followed, seq, at)
            self._keep(key, known)
        if known.stored != held and known.readable is None:
            known = self._computed(session, followed, seq, at, readable=True)
            self._keep(key, known)
        return held if held in (known.stored, known.readable) else known.readable

    def _computed(
        self,
        session: Session,
        followed: Followed,
        seq: int,
        at: datetime,
        *,
        readable: bool = False,
    ) -> _Known:
        """Compute what a follower may hold, also by reading all vectors if `readable`.

        Templates that cannot be read, or have no hash yet, make the two differ.
        """
        begun_s = self._clock.monotonic_s()
        scope = followed.scope
        cipher = self._vault.cipher(session, scope)
        rows = select(Template.number).join(Person, Person.number == Template.person_number)
        rows = rows.where(Template.collection_number == scope.number, followed.holds(at))
        numbers, hashes = stored_hashes(session, cipher, scope.model_id, rows)
        read = None
        if readable:
            parts = list(self._read(session, followed, at))
            read = _digest(
                np.concatenate([np.empty(0, np.uint64), *(part for part, _ in parts)]),
                np.concatenate([np.empty(0, np.uint64), *(part for _, part in parts)]),
            )
        begins, ends = _unchanged(session, scope.number, at)
        now_s = self._clock.monotonic_s()
        return _Known(
            seq=seq,
            begins=begins,
            ends=ends,
            stored=_digest(numbers, hashes),
            readable=read,
            at_s=begun_s,
            again_s=now_s + _REST * (now_s - begun_s),
        )

    def _keep(self, key: tuple[str, str], known: _Known) -> None:
        self._known.pop(key, None)
        self._known[key] = known
        if len(self._known) > _MOST_SCOPES:
            del self._known[next(iter(self._known))]

    def _read(
        self, session: Session, followed: Followed, at: datetime
    ) -> Iterator[tuple[Numbers, Hashes]]:
        after, scope = 0, followed.scope
        cipher = self._vault.cipher(session, scope)
        while True:
            portion = templates_of(followed, at).where(Template.number > after)
            rows = session.execute(portion.order_by(Template.number).limit(_AT_ONCE)).all()
            if not rows:
                return
            after = rows[-1].number
            read = read_templates(cipher, scope.model_id, scope.dimension, rows)
            yield read.numbers, read.hashes


def _digest(numbers: Numbers, hashes: Hashes) -> Digest:
    return numbers.shape[0], digest_of(numbers, hashes)


def _unchanged(session: Session, collection: int, at: datetime) -> tuple[datetime, datetime]:
    """The last moment up to `at` and the first after it at which a person expires."""
    expiry, here = Person.expires_at, Person.collection_number == collection
    last = session.scalar(select(func.max(expiry)).where(here, expiry <= at))
    first = session.scalar(select(func.min(expiry)).where(here, expiry > at))
    return last or _ALWAYS[0], first or _ALWAYS[1]
