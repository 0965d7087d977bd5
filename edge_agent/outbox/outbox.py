"""The outbox: every probe rests on the box's disk until the server has answered for it.

SQLite in WAL mode with `synchronous=FULL`: a commit is on the disk when it returns, so that neither
`kill -9` nor a power cut takes a probe that was put, or gives out a sequence number twice. A box
makes a few probes a second at most, so the sync per commit costs nothing that matters.

Probes rest as envelopes of the box's key, and what was delivered is overwritten: in the file at
once, in its write-ahead log within some seconds.
"""

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge_agent.outbox import queries
from edge_agent.outbox.database import LastNumber, TakesNothing, begin_anew, is_damage, open_file
from edge_agent.outbox.encryption import Seal, take_over
from edge_agent.vision.probe import Probe
from shared.clock import Clock, SystemClock, rfc3339
from shared.errors import Damaged, KeyMissing, MusterError, StorageReadOnly, Unavailable
from shared.files import no_storing
from shared.wire.messages import ProbeReceipt

log = logging.getLogger(__name__)

_RETRY_S = 2.0
_HELD_BYTES = 8 * 1024 * 1024
_MINUTE_S = 60.0
_OLDEST = "SELECT sequence, probe_id, body FROM probe ORDER BY sequence"
_TRUNCATE = "PRAGMA wal_checkpoint(TRUNCATE)"
_CLEAN_S = 10.0  # between two truncations of the write-ahead log


@dataclass(frozen=True, slots=True)
class StoredProbe:
    """One probe as it waits: its number, its id and its wire form (JSON, UTF-8)."""

    sequence: int
    probe_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """One probe that the server will never take, and its reason."""

    sequence: int
    probe_id: str
    code: str | None
    message: str | None
    refused_at: str  # RFC 3339


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """What the outbox has seen since it was created, and what it holds now."""

    put: int  # numbered and stored; equals the last sequence number
    acknowledged: int
    refused: int
    dropped: int  # given up, oldest first, for want of room or for their age
    waiting: int  # on the disk
    held: int  # in memory, because the disk takes nothing at the moment
    waiting_bytes: int


class Outbox:
    """A bounded, durable queue of one device's probes. Safe to use from several threads.

    The queue on the disk holds at most `max_bytes` of messages; what comes then pushes out the
    oldest, which is counted as dropped, and so is what has waited for `max_age_s`. Age is the time
    that the outbox has been open since: a clock that jumps a year ahead makes nothing old. While
    the disk takes nothing (full, read-only, broken), new probes are held in memory, at most 8 MiB
    of them, oldest dropped first and counted; they are numbered and stored as soon as the disk
    takes them.

    A disk that takes nothing from the start is no reason not to start: the file is opened as soon
    as it does, and until then probes are held in memory. A file that is found damaged, at any time,
    is set aside, and a new one goes on with what could be read of it; numbers never go back. Raises
    Unavailable when the file cannot be opened for another reason.
    """

    def __init__(
        self,
        path: Path,
        device: str,
        *,
        max_bytes: int = 256 * 1024 * 1024,
        max_age_s: float = 30 * 24 * 3600.0,
        key_file: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`key_file` holds the box's key; None: systemd's, or one that is made beside the file."""
        self._path = path
        self._seal = Seal(path.parent, device, key_file)
        self._unreadable: set[int] = set()  # numbers of probes that do not open
        self._deleted = False  # since the log was truncated
        self._cleaned_at_s = 0.0
        self._device = device
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._held: deque[Probe] = deque()
        self._held_bytes = 0
        self._held_dropped = 0
        self._settled: dict[str, ProbeReceipt] = {}  # answered for, not yet removed from the disk
        self._retry_at: float | None = None  # set while the disk takes nothing
        self._why_nothing = ""  # and why it does not
        self._anew_at_s: float | None = None  # when a damaged file was replaced last
        self._last_number = LastNumber(path)
        self._last_stored = 0
        self._observers: list[Callable[[], None]] = []
        self._opened: sqlite3.Connection | None = None  # None while the disk is too full for it
        self._lived_before_s = 0.0  # in earlier processes
        self._opened_at_s = self._aged_at_s = self._clock.monotonic_s()
        self._open()
        self._seal.load()

    def put(self, probes: Sequence[Probe]) -> int:
        """Numbers the probes and stores them in one transaction; answers how many were stored.

        Never raises for a disk that takes nothing: the probes are then held, and 0 is answered.
        """
        with self._lock:
            self._hold(probes)
            if self._retry_at is not None and self._clock.monotonic_s() < self._retry_at:
                return 0
            return self.retry()

    def retry(self) -> int:
        """Stores what is held and forgets what was answered for, if the disk takes it now."""
        with self._lock:
            if not self._is_open():
                return 0
            if not self._held and not self._settled and not self._is_time_to_age():
                self._clean()
                return 0
            try:
                with self._transaction() as cursor:
                    now = rfc3339(self._clock.now())
                    queries.forget(cursor, self._settled.values(), now)
                    self._deleted = self._deleted or bool(self._settled)
                    stored = self._store(cursor)
                    self._drop_aged(cursor)
            except (sqlite3.Error, Unavailable) as error:
                if isinstance(error, sqlite3.Error) and self._begin_anew(error):
                    return self.retry()
                self._disk_failed(error)
                return 0
            self._clean()
            if stored:
                self._last_number.write(self._last_stored)
            self._settled.clear()
            self._held.clear()
            self._held_bytes = 0
            self._held_dropped = 0
            self._disk_works(stored)
        if stored:
            for observer in self._observers:
                observer()
        return stored

    def pending(self, limit: int = 32, max_bytes: int = 1024 * 1024) -> list[StoredProbe]:
        """The oldest probes that nobody has answered for, in order; at least one if there is any.

        At most `limit`, and no more than `max_bytes` together unless the first alone is larger.
        """
        with self._reading():
            if self._opened is None:
                return []
            batch: list[StoredProbe] = []
            size = 0
            with closing(self._connection.execute(_OLDEST)) as rows:
                for sequence, probe_id, sealed in rows:
                    if probe_id in self._settled or sequence in self._unreadable:
                        continue
                    body = self._opened_probe(sequence, probe_id, sealed)
                    if body is None:
                        continue
                    size += len(body)
                    if batch and (size > max_bytes or len(batch) == limit):
                        break
                    batch.append(StoredProbe(sequence, probe_id, body))
            return batch

    def acknowledge(self, probe_ids: Iterable[str]) -> None:
        """Forgets probes that the server has; unknown ids are ignored."""
        self.settle([ProbeReceipt(probe_id=one, status="accepted") for one in probe_ids])

    def settle(self, receipts: Iterable[ProbeReceipt]) -> None:
        """Removes the probes that these receipts answer for; what was refused is written down.

        A disk that takes nothing does not make them come back: they are not pending any more.
        """
        with self._reading():
            fresh = {one.probe_id: one for one in receipts if self._is_waiting(one.probe_id)}
            for receipt in fresh.values():
                if receipt.status == "refused":
                    log.warning(
                        "The server refuses probe %s (%s): %s",
                        receipt.probe_id,
                        receipt.code,
                        receipt.message,
                    )
            self._settled.update(fresh)
            self.retry()

    def refusals(self, limit: int = 100) -> list[Refusal]:
        """What the server refused, newest first; the newest 1,000 are kept."""
        with self._reading():
            rows = self._connection.execute(
                "SELECT sequence, probe_id, code, message, refused_at FROM refusal"
                " ORDER BY sequence DESC LIMIT ?",
                (limit,),
            )
            return [Refusal(*row) for row in rows]

    def counts(self) -> OutboxCounts:
        with self._reading():
            if self._opened is None:
                return OutboxCounts(0, 0, 0, self._held_dropped, 0, len(self._held), 0)
            last, size, acknowledged, refused, dropped, waiting = self._connection.execute(
                "SELECT last_sequence, bytes, acknowledged, refused, dropped,"
                " (SELECT count(*) FROM probe) FROM tally"
            ).fetchone()
            refusing = sum(one.status == "refused" for one in self._settled.values())
            return OutboxCounts(
                put=last,
                acknowledged=acknowledged + len(self._settled) - refusing,
                refused=refused + refusing,
                dropped=dropped + self._held_dropped,
                waiting=waiting - len(self._settled),
                held=len(self._held),
                waiting_bytes=size,
            )

    @property
    def trouble(self) -> str | None:
        """What is wrong with the disk or the key, as a sentence; None while all is well."""
        if self._retry_at is None:
            return self._why_unreadable() if self._unreadable else None
        return (
            f"The outbox {self._path} takes nothing ({self._why_nothing}): probes are held in"
            f" memory; {self._advice}"
        )

    def observe(self, observer: Callable[[], None]) -> None:
        """Calls `observer` after each put that stored something, in the thread that put it."""
        self._observers.append(observer)

    def close(self) -> None:
        """Makes a last attempt to store what is held, then closes the file."""
        with self._lock:
            self.retry()
            if self._held:
                log.error(
                    "%d probes are lost: %s took nothing until the end",
                    len(self._held),
                    self._path,
                )
            self._leave()
            self._last_number.close()

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            raise sqlite3.OperationalError("not open yet: the disk took nothing")
        return self._opened

    def _is_open(self) -> bool:
        """Opens the file if it was not yet; False while the disk takes nothing."""
        if self._opened is None and self._clock.monotonic_s() >= (self._retry_at or 0.0):
            self._open()
        return self._opened is not None

    def _open(self) -> None:
        try:
            self._use(open_file(self._path, self._seal.open))
        except TakesNothing as error:
            self._disk_failed(error)
        except sqlite3.Error as error:
            if not self._begin_anew(error):
                self._leave()
                self._disk_failed(error)

    def _leave(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _begin_anew(self, damage: sqlite3.Error) -> bool:
        """Replaces a file that turned out to be damaged; at most once a minute."""
        now_s = self._clock.monotonic_s()
        if not is_damage(damage) or (
            self._anew_at_s is not None and now_s - self._anew_at_s < _MINUTE_S
        ):
            return False
        self._anew_at_s = now_s
        self._leave()
        try:
            self._use(begin_anew(self._path, damage, self._seal.open))
        except (TakesNothing, MusterError, sqlite3.Error) as error:
            log.error("The outbox %s cannot begin anew: %s", self._path, error)
            return False
        return True

    def _use(self, connection: sqlite3.Connection) -> None:
        """Goes on with this file, and with numbers that nobody has had."""
        take_over(connection, self._seal)
        self._opened = connection
        self._opened_at_s = self._clock.monotonic_s()
        self._truncate()  # what a power cut left behind
        self._lived_before_s, last = connection.execute(
            "SELECT lived_s, last_sequence FROM tally"
        ).fetchone()
        given = self._last_number.read()
        if given > last:
            connection.execute("UPDATE tally SET last_sequence = ?", (given,))
            log.warning(
                "The outbox %s has forgotten what came after number %d; it goes on after %d",
                self._path,
                last,
                given,
            )
        self._disk_works(0)

    def _is_waiting(self, probe_id: str) -> bool:
        if probe_id in self._settled:
            return False
        found = self._connection.execute("SELECT 1 FROM probe WHERE probe_id = ?", (probe_id,))
        return found.fetchone() is not None

    def _hold(self, probes: Sequence[Probe]) -> None:
        for probe in probes:
            self._held.append(probe)
            self._held_bytes += probe.size_bytes
        while self._held_bytes > _HELD_BYTES and len(self._held) > 1:
            self._held_bytes -= self._held.popleft().size_bytes
            self._held_dropped += 1

    def _store(self, cursor: sqlite3.Cursor) -> int:
        rows = []
        for sequence, probe in enumerate(self._held, start=queries.last_sequence(cursor) + 1):
            message = probe.message(self._device, sequence)
            body = message.model_dump_json(exclude_none=True).encode()
            sealed = self._seal.seal(sequence, probe.probe_id, body)
            rows.append((sequence, probe.probe_id, sealed, self._lived_s()))
        if rows:
            queries.insert(cursor, rows)
            queries.count_dropped(cursor, self._held_dropped)
            queries.make_room(cursor, self._max_bytes)
            self._last_stored = rows[-1][0]
        return len(rows)

    def _opened_probe(self, sequence: int, probe_id: str, sealed: bytes) -> bytes | None:
        """The wire form; None for a probe that does not open: it waits for its key, and ages."""
        try:
            return self._seal.open(sequence, probe_id, sealed)
        except (Damaged, KeyMissing) as error:
            if not self._unreadable:
                log.error("A probe in the outbox %s cannot be read: %s", self._path, error.message)
            self._unreadable.add(sequence)
            return None

    def _why_unreadable(self) -> str:
        return (
            f"{len(self._unreadable)} probes in the outbox {self._path} cannot be read: they are "
            "damaged, or the box has another key than it had; give it the old one as well"
        )

    def _clean(self) -> None:
        """Truncates the log now and then, in which delivered probes would rest on."""
        if self._deleted and self._clock.monotonic_s() - self._cleaned_at_s >= _CLEAN_S:
            self._truncate()

    def _truncate(self) -> None:
        self._cleaned_at_s = self._clock.monotonic_s()
        with suppress(sqlite3.Error):  # a full disk: what is stored is stored
            (busy, *_) = self._connection.execute(_TRUNCATE).fetchone()
            self._deleted = bool(busy)

    def _lived_s(self) -> float:
        """How long the outbox has been open in all its processes."""
        return self._lived_before_s + self._clock.monotonic_s() - self._opened_at_s

    def _is_time_to_age(self) -> bool:
        return self._clock.monotonic_s() - self._aged_at_s >= _MINUTE_S

    def _drop_aged(self, cursor: sqlite3.Cursor) -> None:
        """Once a minute: notes how long the outbox has lived, and drops what waited too long."""
        if not self._is_time_to_age():
            return
        lived_s = self._lived_s()
        cursor.execute("UPDATE tally SET lived_s = ?", (lived_s,))
        gone = queries.drop_older(cursor, lived_s - self._max_age_s)
        if gone:
            self._deleted = True
            log.warning("%d probes waited too long for the server and are dropped", gone)
        self._aged_at_s = self._clock.monotonic_s()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Holds the lock; Unavailable when the file cannot be read at the moment."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                self._begin_anew(error)
                raise Unavailable(f"the outbox {self._path} cannot be read: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        cursor = self._connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise
        finally:
            cursor.close()

    def _disk_failed(self, error: Exception) -> None:
        # SQLite calls a disk that became read-only by itself an I/O error.
        read_only = isinstance(no_storing(self._path.parent, "stored"), StorageReadOnly)
        self._why_nothing = "the disk is read-only" if read_only else str(error)
        if self._retry_at is None:
            log.error(
                "The outbox %s takes nothing at the moment (%s): probes are held in memory and"
                " stored when it does; %s",
                self._path,
                self._why_nothing,
                self._advice,
            )
        self._retry_at = self._clock.monotonic_s() + _RETRY_S

    @property
    def _advice(self) -> str:
        full = "full" in self._why_nothing
        return "free some space" if full else "look after the disk, it may be worn out"

    def _disk_works(self, stored: int) -> None:
        if self._retry_at is not None:
            log.warning("The outbox %s works again; %d probes stored", self._path, stored)
        self._retry_at = None
