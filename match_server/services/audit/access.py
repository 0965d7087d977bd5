"""Who looked at what: the part of the audit log that changes nothing else.

Photos, records of images and lists of templates are looked at seldom: each look is a line, written
before the answer. Searches and thumbnails are asked for all day long, and a line for each would
cost a commit to the disk and grow without end; so what one key does is gathered for about a minute
and told in one line, with how often and of what. A process that is killed loses that minute.
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

_MOST_SUBJECTS = 200  # in one line
_MOST_LINES = 1000  # that wait to be written
_MOST_WAITING = 10_000  # subjects of a line, while the database does not take it
_OTHERS = "others"  # in place of those beyond


@dataclass(slots=True)
class _Gathered:
    since: datetime
    times: int = 0
    of: dict[str, int] = field(default_factory=dict)  # subject: how often


class AccessLog:
    """Tells the audit log of what is looked at. Thread-safe."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str | None, str], _Gathered] = {}  # by actor, role, action

    def saw(self, action: str, subject: str | None, person: str | None) -> None:
        """Write one line now, on behalf of the current actor."""
        with self._database.write() as session:
            note(session, Note(action, self._clock.now(), subject, person))

    def count(self, action: str, subject: str | None) -> None:
        """Let it be part of a line that `flush` writes."""
        actor = current_actor()
        key = (actor.who, actor.role, action)
        with self._lock:
            gathered = self._waiting.setdefault(key, _Gathered(self._clock.now()))
            gathered.times += 1
            if subject is not None:
                if len(gathered.of) >= _MOST_WAITING:
                    subject = subject if subject in gathered.of else _OTHERS
                gathered.of[subject] = gathered.of.get(subject, 0) + 1
            full = len(gathered.of) >= _MOST_SUBJECTS or len(self._waiting) >= _MOST_LINES
        if full:
            try:
                self.flush()
            except Unavailable as error:  # who only looks goes on, on a full disk for example
                log.warning("Entries of the audit log wait", extra={"why": error.message})

    def flush(self) -> None:
        """Write what was gathered; on a failure it stays gathered."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        before = current_actor()
        try:
            while waiting:
                key = next(iter(waiting))
                self._write(*key, waiting[key])
                del waiting[key]
        finally:
            act_as(before)
            with self._lock:
                for key, gathered in waiting.items():
                    self._merge(key, gathered)

    def _write(self, who: str, role: str | None, action: str, gathered: _Gathered) -> None:
        of: dict[str, JsonValue] = {**gathered.of}
        details: dict[str, JsonValue] = {
            "times": gathered.times,
            "since": rfc3339(gathered.since),
            "of": of,
        }
        act_as(Actor(who, role))
        with self._database.write() as session:
            note(session, Note(action, self._clock.now(), details=details))

    def _merge(self, key: tuple[str, str | None, str], gathered: _Gathered) -> None:
        later = self._waiting.get(key)
        if later is not None:
            gathered.times += later.times
            for subject, times in later.of.items():
                gathered.of[subject] = gathered.of.get(subject, 0) + times
        self._waiting[key] = gathered
