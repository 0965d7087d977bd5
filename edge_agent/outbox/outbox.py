"""The outbox: every probe stays on the device's disk until the server has confirmed it.

SQLite in WAL mode with `synchronous=FULL`: a commit is on the disk when it returns. So neither
`kill -9` nor a power cut loses a stored probe or uses a sequence number twice. A device makes a few
probes a second at most, so one sync for each commit costs little.

Probes are encrypted with the device's key. Delivered probes are overwritten: in the file at once,
in its write-ahead log within some seconds.
"""

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from edge_agent.outbox import queries
from edge_agent.outbox.encryption import ProbeEncryption
from edge_agent.outbox.file import OutboxFile
from edge_agent.outbox.records import OutboxCounts, Refusal, StoredProbe
from edge_agent.vision.probe import Probe
from shared.clock import Clock, SystemClock, rfc3339
from shared.errors import Damaged, KeyMissing, Unavailable
from shared.wire.messages import ProbeReceipt

log = logging.getLogger(__name__)

_MAX_HELD_BYTES: Final = 8 * 1024 * 1024
_AGE_CHECK_S: Final = 60.0
_OLDEST: Final = "SELECT sequence, probe_id, body FROM probe ORDER BY sequence"


class Outbox:
    """A bounded, durable queue of one device's probes. Safe to use from several threads.

    The queue on the disk holds at most `max_bytes` of messages; a new probe pushes out the oldest,
    which is counted as dropped. A probe older than `max_age_s` is dropped, too. Age is the time
    that the outbox has been open since: a clock that jumps a year ahead makes nothing old. While
    the disk cannot be written (full, read-only, broken), new probes are held in memory, at most
    8 MiB of them, oldest dropped first and counted; they are numbered and stored as soon as the
    disk works.

    A full disk at the start is no reason not to start: the file is opened later, and until then
    probes are held in memory. A damaged file is replaced at any time by a new one with the probes
    that can be read; numbers never go back. Raises Unavailable when the file cannot be opened for
    another reason.
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
        """`key_file` has the device's key; None: systemd's, or one that is made beside `path`."""
        self._path = path
        self._device = device
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._held: deque[Probe] = deque()
        self._held_bytes = 0
        self._held_dropped = 0
        self._settled: dict[str, ProbeReceipt] = {}  # confirmed, not yet removed from the disk
        self._unreadable: set[int] = set()  # numbers of probes that cannot be decrypted
        self._observers: list[Callable[[], None]] = []
        self._age_checked_s = self._clock.monotonic_s()
        self._encryption = ProbeEncryption(path.parent, device, key_file)
        self._file = OutboxFile(path, self._encryption, self._clock)
        self._encryption.load()

    def put(self, probes: Sequence[Probe]) -> int:
        """Numbers the probes and stores them in one transaction; returns how many were stored.

        It never raises when the disk cannot be written: it holds the probes and returns 0.
        """
        with self._lock:
            self._hold(probes)
            return 0 if self._file.must_wait else self.retry()

    def retry(self) -> int:
        """Stores the held probes and removes the confirmed ones, if the disk can be written."""
        with self._lock:
            if not self._file.try_open():
                return 0
            if not self._held and not self._settled and not self._must_check_age():
                self._file.clean()
                return 0
            try:
                stored, last = self._write()
            except (sqlite3.Error, Unavailable) as error:
                if isinstance(error, sqlite3.Error) and self._file.replace(error):
                    return self.retry()
                self._file.disk_failed(error)
                return 0
            self._file.clean()
            if stored:
                self._file.write_last_number(last)
            self._settled.clear()
            self._held.clear()
            self._held_bytes = 0
            self._held_dropped = 0
            self._file.disk_works(stored)
        if stored:
            for observer in self._observers:
                observer()
        return stored

    def pending(self, limit: int = 32, max_bytes: int = 1024 * 1024) -> list[StoredProbe]:
        """Returns the oldest unconfirmed probes in order; at least one if there is any.

        At most `limit`, and no more than `max_bytes` together unless the first alone is larger.
        """
        with self._reading():
            if not self._file.is_open:
                return []
            batch: list[StoredProbe] = []
            size = 0
            with closing(self._file.connection.execute(_OLDEST)) as rows:
                for sequence, probe_id, stored in rows:
                    if probe_id in self._settled or sequence in self._unreadable:
                        continue
                    body = self._decrypted(sequence, probe_id, stored)
                    if body is None:
                        continue
                    size += len(body)
                    if batch and (size > max_bytes or len(batch) == limit):
                        break
                    batch.append(StoredProbe(sequence, probe_id, body))
            return batch

    def acknowledge(self, probe_ids: Iterable[str]) -> None:
        """Removes probes that the server has; unknown ids are ignored."""
        self.settle([ProbeReceipt(probe_id=id_, status="accepted") for id_ in probe_ids])

    def settle(self, receipts: Iterable[ProbeReceipt]) -> None:
        """Removes the probes of these receipts, and records the refused ones.

        They are no longer pending, also while the disk cannot be written.
        """
        with self._reading():
            fresh = {
                receipt.probe_id: receipt
                for receipt in receipts
                if self._is_waiting(receipt.probe_id)
            }
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
        """Returns the refused probes, newest first; the newest 1,000 are kept."""
        with self._reading():
            rows = self._file.connection.execute(
                "SELECT sequence, probe_id, code, message, refused_at FROM refusal"
                " ORDER BY sequence DESC LIMIT ?",
                (limit,),
            )
            return [Refusal(*row) for row in rows]

    def counts(self) -> OutboxCounts:
        with self._reading():
            if not self._file.is_open:
                return OutboxCounts(0, 0, 0, self._held_dropped, 0, len(self._held), 0)
            last, size, acknowledged, refused, dropped, waiting = self._file.connection.execute(
                "SELECT last_sequence, bytes, acknowledged, refused, dropped,"
                " (SELECT count(*) FROM probe) FROM tally"
            ).fetchone()
            refusing = sum(receipt.status == "refused" for receipt in self._settled.values())
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
        """The problem of the disk or the key, as a sentence; None where there is none."""
        if self._file.trouble is not None or not self._unreadable:
            return self._file.trouble
        return (
            f"{len(self._unreadable)} probes in the outbox {self._path} cannot be read: they are "
            "damaged, or the box has another key than it had; give it the old one as well"
        )

    def observe(self, observer: Callable[[], None]) -> None:
        """Calls `observer` after each put that stored a probe, in the thread that put it."""
        self._observers.append(observer)

    def close(self) -> None:
        """Tries a last time to store the held probes, then closes the file."""
        with self._lock:
            self.retry()
            if self._held:
                log.error(
                    "Lost %d probes: %s could not be written until the end",
                    len(self._held),
                    self._path,
                )
            self._file.close()

    def _write(self) -> tuple[int, int]:
        """One transaction; returns how many probes it stored, and the last number."""
        with self._file.transaction() as cursor:
            queries.forget(cursor, self._settled.values(), rfc3339(self._clock.now()))
            if self._settled:
                self._file.note_deleted()
            stored, last = self._store_held(cursor)
            self._drop_aged(cursor)
        return stored, last

    def _is_waiting(self, probe_id: str) -> bool:
        if probe_id in self._settled:
            return False
        query = "SELECT 1 FROM probe WHERE probe_id = ?"
        return self._file.connection.execute(query, (probe_id,)).fetchone() is not None

    def _hold(self, probes: Sequence[Probe]) -> None:
        for probe in probes:
            self._held.append(probe)
            self._held_bytes += probe.size_bytes
        while self._held_bytes > _MAX_HELD_BYTES and len(self._held) > 1:
            self._held_bytes -= self._held.popleft().size_bytes
            self._held_dropped += 1

    def _store_held(self, cursor: sqlite3.Cursor) -> tuple[int, int]:
        """Returns how many probes it stored, and the last number."""
        rows = []
        for sequence, probe in enumerate(self._held, start=queries.last_sequence(cursor) + 1):
            message = probe.message(self._device, sequence)
            body = message.model_dump_json(exclude_none=True).encode()
            encrypted = self._encryption.encrypt(sequence, probe.probe_id, body)
            rows.append((sequence, probe.probe_id, encrypted, self._file.age_s))
        if not rows:
            return 0, 0
        queries.insert(cursor, rows)
        queries.count_dropped(cursor, self._held_dropped)
        queries.make_room(cursor, self._max_bytes)
        return len(rows), rows[-1][0]

    def _decrypted(self, sequence: int, probe_id: str, stored: bytes) -> bytes | None:
        """Returns None for a probe that cannot be decrypted: it waits for its key, and ages."""
        try:
            return self._encryption.decrypt(sequence, probe_id, stored)
        except (Damaged, KeyMissing) as error:
            if not self._unreadable:
                log.error("A probe in the outbox %s cannot be read: %s", self._path, error.message)
            self._unreadable.add(sequence)
            return None

    def _must_check_age(self) -> bool:
        return self._clock.monotonic_s() - self._age_checked_s >= _AGE_CHECK_S

    def _drop_aged(self, cursor: sqlite3.Cursor) -> None:
        """Once a minute: stores the age of the outbox, and drops probes that waited too long."""
        if not self._must_check_age():
            return
        age_s = self._file.age_s
        cursor.execute("UPDATE tally SET lived_s = ?", (age_s,))
        dropped = queries.drop_older(cursor, age_s - self._max_age_s)
        if dropped:
            self._file.note_deleted()
            log.warning("Dropped %d probes that waited too long for the server", dropped)
        self._age_checked_s = self._clock.monotonic_s()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Holds the lock. Raises Unavailable while the file cannot be read."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                self._file.replace(error)
                raise Unavailable(f"the outbox {self._path} cannot be read: {error}") from error
