"""The revision of the database, by which results that were read before are known to be current."""

import threading
from typing import Generic, NamedTuple, TypeVar

from sqlalchemy import bindparam, select

from match_server.db.database import Reader
from match_server.db.tables import AuditHead, Counter

Value = TypeVar("Value")


class Revision(NamedTuple):
    """How far the change feed and the audit log had come at one moment.

    Every write that changes keys, collections, calibrations or persons appends to one of them in
    its own transaction. So between two moments with equal revisions none of these has changed.
    """

    changes: int  # number of the last change
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


_AUDIT = select(AuditHead.number).where(AuditHead.id == bindparam("head")).scalar_subquery()
_CURRENT = select(Counter.value, _AUDIT).where(Counter.name == bindparam("counter"))
_ROWS = {"counter": "changes", "head": 1}


def read_revision(reader: Reader) -> Revision:
    """The revision with everything that was committed before this call: one short query."""
    ((changes, audit),) = reader.execute(_CURRENT, _ROWS)
    return Revision(changes, audit)
