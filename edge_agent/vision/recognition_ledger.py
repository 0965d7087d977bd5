"""The ledger: why faces before each camera were or were not recognised, day by day.

Totals in SQLite beside the outbox. A commit survives `kill -9`; a power cut may take the last few
counts with it (`synchronous=NORMAL`): an SD card lives longer without a sync for every passer-by.
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
_OUTCOME: Final = "(with probe)"  # no factor has such a name
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
    """How the tracks of one camera and day ended that gave no probe, in plain terms."""

    camera: str
    day: date
    tracks: int
    with_probe: int
    reasons: dict[str, int]  # most frequent first


class TrackLedger(Protocol):
    """Where the pipeline enters each track that ended."""

    def enter(self, camera: str, ended_at: datetime, reason: str | None) -> None: ...


class Ledger:
    """Daily totals per camera. Safe to use from several threads.

    The newest 60 days that saw a track are kept: counted, not reckoned from today, because a
    clock that is wrong for a minute must not wipe out what was seen before. While the disk takes
    nothing, totals are added up in memory: as many as there are cameras and reasons, no more.
    Raises Unavailable when the file cannot be opened at all.
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
        """One track ended; `reason` is the main factor why it gave no probe, None where it did.

        `COVERED` is a track that gave probes, all of a covered face.

        Never raises for a disk that takes nothing.
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
                log.error("The ledger %s takes nothing at the moment: %s", self._path, error)
            self._failing = True
            return
        self._unsaved.clear()
        self._failing = False


def plainly(days: Sequence[LedgerDay]) -> list[Refusals]:
    """The same days with reasons that need no knowledge of quality factors."""
    told = []
    for one in days:
        reasons: Counter[str] = Counter()
        for factor, tracks in one.reasons.items():
            reasons[in_plain_terms(factor)] += tracks
        ordered = dict(reasons.most_common())
        told.append(Refusals(one.camera, one.day, one.tracks, one.with_probe, ordered))
    return told


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
    return sorted(days, key=lambda one: one.day, reverse=True)


def _open(path: Path) -> sqlite3.Connection:
    """Opens or creates the file. One that is no database is moved aside: it only counts."""
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorname", "") not in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            raise
        aside = path.with_name(f"{path.name}.damaged")
        path.rename(aside)
        for companion in ("-wal", "-shm"):
            path.with_name(path.name + companion).unlink(missing_ok=True)
        log.error("The ledger %s is damaged: kept as %s, a new one begins", path, aside)
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
