"""The ledger: daily counts of how the tracks of each camera ended, and why without a probe.

The counts stand in SQLite beside the outbox. A commit survives `kill -9`; a power cut may lose the
last few counts (`synchronous=NORMAL`), because a sync for each track would wear an SD card.
"""

import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, Protocol

from shared.errors import Unavailable
from shared.reasons import COVERED, NO_LOOK, in_plain_terms
from shared.wire.device import LedgerDay

log = logging.getLogger(__name__)

__all__ = ["COVERED", "NO_LOOK", "Ledger", "Refusals", "TrackLedger", "in_plain_terms", "plainly"]

KEPT_DAYS: Final = 60
_OUTCOME: Final = "(with probe)"  # the name of no factor
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tally (
    day TEXT NOT NULL,
    camera TEXT NOT NULL,
    outcome TEXT NOT NULL,
    tracks INTEGER NOT NULL,
    PRIMARY KEY (day, camera, outcome)
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_ADD: Final = """
INSERT INTO tally VALUES (?, ?, ?, ?)
ON CONFLICT (day, camera, outcome) DO UPDATE SET tracks = tracks + excluded.tracks
"""
_FORGET: Final = """
DELETE FROM tally WHERE day NOT IN (SELECT DISTINCT day FROM tally ORDER BY day DESC LIMIT ?)
"""


@dataclass(frozen=True, slots=True)
class Refusals:
    """The counts of one camera and day, with reasons in plain words."""

    camera: str
    day: date
    tracks: int
    with_probe: int
    reasons: dict[str, int]  # most frequent first


class TrackLedger(Protocol):
    """Receives each track that ended."""

    def enter(self, camera: str, ended_at: datetime, reason: str | None) -> None: ...


class Ledger:
    """Daily totals per camera. Safe to use from several threads.

    The newest 60 days with a track are kept. They are not computed from today, because a clock
    that is wrong for a minute must not delete older days. While the disk cannot be written, counts
    are kept in memory, one for each camera and reason. Raises Unavailable when the file cannot be
    opened.
    """

    def __init__(self, path: Path, *, kept_days: int = KEPT_DAYS) -> None:
        self._path = path
        self._kept_days = kept_days
        self._lock = threading.Lock()
        self._unsaved: Counter[tuple[str, str, str]] = Counter()
        self._failing = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _open(path)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"the ledger {path} cannot be opened: {error}") from error

    def enter(self, camera: str, ended_at: datetime, reason: str | None) -> None:
        """Counts a track that ended. `reason` is the main factor why it gave no probe, else None.

        `COVERED` is the reason of a track whose probes all show a covered face. It does not raise
        an error where the disk cannot be written.
        """
        day = ended_at.astimezone(UTC).date().isoformat()
        with self._lock:
            self._unsaved[day, camera, _OUTCOME if reason is None else reason] += 1
            self._save()

    def days(self, since: date | None = None) -> list[LedgerDay]:
        """The totals by camera and day, newest day first; only of days from `since` on."""
        with self._lock:
            self._save()
            totals = Counter(self._unsaved)
            try:
                rows = self._connection.execute("SELECT day, camera, outcome, tracks FROM tally")
                for day, camera, outcome, tracks in rows:
                    totals[day, camera, outcome] += tracks
            except sqlite3.Error as error:
                raise Unavailable(f"the ledger {self._path} cannot be read: {error}") from error
        return _as_days(totals, since)

    def close(self) -> None:
        with self._lock:
            self._save()
            self._connection.close()

    def _save(self) -> None:
        if not self._unsaved:
            return
        try:
            with self._connection:
                rows = [(*key, tracks) for key, tracks in self._unsaved.items()]
                self._connection.executemany(_ADD, rows)
                self._connection.execute(_FORGET, (self._kept_days,))
        except sqlite3.Error as error:
            if not self._failing:
                log.error("Cannot write the ledger %s at the moment: %s", self._path, error)
            self._failing = True
            return
        self._unsaved.clear()
        self._failing = False


def plainly(days: Sequence[LedgerDay]) -> list[Refusals]:
    """The same days with reasons in plain words instead of quality factors."""
    refusals = []
    for day in days:
        reasons: Counter[str] = Counter()
        for factor, tracks in day.reasons.items():
            reasons[in_plain_terms(factor)] += tracks
        ordered = dict(reasons.most_common())
        refusals.append(Refusals(day.camera, day.day, day.tracks, day.with_probe, ordered))
    return refusals


def _as_days(totals: Counter[tuple[str, str, str]], since: date | None) -> list[LedgerDay]:
    outcomes: dict[tuple[str, str], Counter[str]] = {}
    for (day, camera, outcome), tracks in totals.items():
        if since is None or date.fromisoformat(day) >= since:
            outcomes.setdefault((day, camera), Counter())[outcome] += tracks
    days = []
    for (day, camera), counts in sorted(outcomes.items(), key=lambda item: item[0][1]):
        without = counts.total() - counts[_OUTCOME] - counts[COVERED]
        with_probe = counts.pop(_OUTCOME, 0) + counts[COVERED]
        days.append(
            LedgerDay(
                camera=camera,
                day=date.fromisoformat(day),
                tracks=with_probe + without,
                with_probe=with_probe,
                reasons=dict((+counts).most_common()),
            )
        )
    return sorted(days, key=lambda total: total.day, reverse=True)


def _open(path: Path) -> sqlite3.Connection:
    """Opens or creates the file. A damaged one is renamed: it holds nothing but counts."""
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorname", "") not in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            raise
        aside = path.with_name(f"{path.name}.damaged")
        path.rename(aside)
        for companion in ("-wal", "-shm"):
            path.with_name(path.name + companion).unlink(missing_ok=True)
        log.error("The ledger %s is damaged: kept as %s, started a new one", path, aside)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=2.0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
    except BaseException:
        with closing(connection):
            raise
    return connection
