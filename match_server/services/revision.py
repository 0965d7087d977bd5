"""The revision of the database, by which results that were read before are known to be current."""

import threading
from typing import Generic, NamedTuple, TypeVar

from sqlalchemy import bindparam, func, select

from match_server.db.database import Reader
from match_server.db.tables import AuditHead, Counter, Epoch

Value = TypeVar("Value")

_NONE = 2**62  # higher than the number of any epoch


class FeedPosition(NamedTuple):
    """A number of the change feed, and the epoch in which it means one change."""

    epoch: str  # "" for what an older version has read, before there were epochs
    seq: int


class Revision(NamedTuple):
    """How far the change feed and the audit log had come at one moment.

    Every write that changes keys, collections, calibrations or persons appends to one of them in
    its own transaction. So between two moments with equal revisions none of these has changed.
    """

    feed: FeedPosition  # the last change
    audit: int  # number of the last entry


class RevisionCache(Generic[Value]):
    """Values that were read at one revision, by name; those of another are forgotten.

    Thread-safe: the dictionary is replaced, never emptied. What a thread reads for an older
    revision is at least as new.
    """

    def __init__(self) -> None:
        self._revision: Revision | None = None
        self._values: dict[str, Value] = {}
        self._lock = threading.Lock()

    def at(self, revision: Revision) -> dict[str, Value]:
        """The values of this revision, to read and to add to."""
        with self._lock:
            if self._revision != revision:
                self._revision, self._values = revision, {}
            return self._values


_LAST = select(func.max(Epoch.number)).scalar_subquery()
EPOCH = select(Epoch.id).where(Epoch.number == _LAST).scalar_subquery()
"""The present epoch, as a column of a select."""

_AUDIT = select(AuditHead.number).where(AuditHead.id == bindparam("head"))
_FEED = (EPOCH, Counter.value)
_POSITION = select(*_FEED).where(Counter.name == bindparam("counter"))
_CURRENT = select(*_FEED, _AUDIT.scalar_subquery()).where(Counter.name == bindparam("counter"))
_SHARED = select(func.min(Epoch.begins_after)).where(
    Epoch.number
    > func.coalesce(
        select(Epoch.number).where(Epoch.id == bindparam("epoch")).scalar_subquery(),
        bindparam("unknown"),
    )
)
_ROWS = {"counter": "changes", "head": 1}


def read_revision(reader: Reader) -> Revision:
    """The revision with everything that was committed before this call: one short query."""
    ((epoch, changes, audit),) = reader.execute(_CURRENT, _ROWS)
    return Revision(FeedPosition(epoch, changes), audit)


def feed_position(reader: Reader) -> FeedPosition:
    """The last change: as a session sees it, or of the database as it is now."""
    ((epoch, seq),) = reader.execute(_POSITION, {"counter": "changes"})
    return FeedPosition(epoch, seq)


def shared_with(reader: Reader, newest: FeedPosition, epoch: str) -> int | None:
    """The last change that a follower in `epoch` may have read and this database has as well.

    A follower beyond it has read changes that this database lost. None: the epoch is not of this
    database. `newest` was read in the same transaction, or before this call.
    """
    if epoch == newest.epoch:
        return newest.seq
    unknown = -1 if epoch == "" else _NONE
    ((seq,),) = reader.execute(_SHARED, {"epoch": epoch, "unknown": unknown})
    return None if seq is None else int(seq)
