"""Read access in the audit log: who read what.

Photos, image records and lists of templates are read rarely: each read is an entry, written before
the response. Searches and thumbnails are requested all the time, and an entry for each would cost a
commit and grow without limit. So the requests of one key are counted for about a minute and then
written as one entry with counts by subject. A process that is killed loses that minute.
"""

import logging
import threading
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import JsonValue

from match_server.db.database import Database
from match_server.services.audit.chain import Actor, Note, act_as, current_actor, note
from shared.clock import Clock, rfc3339
from shared.errors import Unavailable

log = logging.getLogger(__name__)

_MOST_SUBJECTS = 200  # in one entry
_MOST_ENTRIES = 1000  # that wait to be written
_MOST_WAITING = 10_000  # subjects of an entry while the database is not available
_OTHERS = "others"  # the subject of all further requests


@dataclass(slots=True)
class _Counts:
    since: datetime
    times: int = 0
    of: dict[str, int] = field(default_factory=dict)  # count by subject


class AccessLog:
    """Writes read access to the audit log. Thread-safe."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self.is_full = False  # so many counts wait that they should be written now
        self._waiting: dict[tuple[str, str | None, str], _Counts] = {}  # by actor, role, action

    def saw(self, action: str, subject: str | None, person: str | None) -> None:
        """Write one entry now, for the current actor."""
        with self._database.write() as session:
            note(session, Note(action, self._clock.now(), subject, person))

    def count(self, action: str, subject: str | None) -> None:
        """Count a request of the current actor. `flush` writes the entry, soon if `is_full`."""
        actor = current_actor()
        key = (actor.who, actor.role, action)
        with self._lock:
            counts = self._waiting.setdefault(key, _Counts(self._clock.now()))
            counts.times += 1
            if subject is not None:
                if len(counts.of) >= _MOST_WAITING:
                    subject = subject if subject in counts.of else _OTHERS
                counts.of[subject] = counts.of.get(subject, 0) + 1
            if len(counts.of) >= _MOST_SUBJECTS or len(self._waiting) >= _MOST_ENTRIES:
                self.is_full = True

    def flush_full(self) -> None:
        """Write the counts, and log an error: reads go on, for example while the disk is full."""
        try:
            self.flush()
        except Unavailable as error:
            log.warning(
                "Entries of the audit log wait for the database", extra={"why": error.message}
            )

    def flush(self) -> None:
        """Write the counts as entries. Counts that cannot be written stay for the next time."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            self.is_full = False
        before = current_actor()
        try:
            while waiting:
                key = next(iter(waiting))
                self._write(*key, waiting[key])
                del waiting[key]
        finally:
            act_as(before)
            with self._lock:
                for key, counts in waiting.items():
                    self._merge(key, counts)

    def _write(self, who: str, role: str | None, action: str, counts: _Counts) -> None:
        of: dict[str, JsonValue] = {**counts.of}
        details: dict[str, JsonValue] = {
            "times": counts.times,
            "since": rfc3339(counts.since),
            "of": of,
        }
        act_as(Actor(who, role))
        with self._database.write() as session:
            note(session, Note(action, self._clock.now(), details=details))

    def _merge(self, key: tuple[str, str | None, str], counts: _Counts) -> None:
        later = self._waiting.get(key)
        if later is not None:
            counts.times += later.times
            for subject, times in later.of.items():
                counts.of[subject] = counts.of.get(subject, 0) + times
        self._waiting[key] = counts
