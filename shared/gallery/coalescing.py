"""Request coalescing: concurrent searches share one scan.

Reading the codes costs more than comparing them. If no scan is running, a search starts one at
once. Searches that arrive during a scan wait for its end; then one of them scans for all. So a
search never waits longer than the scan that is running.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shared.gallery.scan import Query, Ranked

_log = logging.getLogger(__name__)

MAX_PROBES = 128
"""Limit of probes in one shared scan. A search with more probes is scanned alone."""

Scan = Callable[[Query], list[Ranked]]


@dataclass(slots=True, eq=False)
class _PendingSearch:
    """A search in the queue. When it is woken without result and error, it must run the scan."""

    query: Query
    woken: "threading.Lock | None" = None  # held while its thread waits; None: it does not wait
    result: list[Ranked] | None = None
    error: BaseException | None = None


class SearchCoalescer:
    """The queue of one gallery's searches: at most one of each thread."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._lock = threading.Lock()
        self._queue: deque[_PendingSearch] = deque()
        self._scanning = False
        self.scans = 0
        """Number of scans so far."""
        self.watch: Callable[[int, float], None] | None = None
        """Called after each scan with the number of its searches and its duration in seconds."""

    def search(self, query: Query) -> list[Ranked]:
        """Returns the result of a scan that starts after this call."""
        pending = _PendingSearch(query)
        with self._lock:
            self._queue.append(pending)
            if self._scanning:
                pending.woken = threading.Lock()
                pending.woken.acquire()
            self._scanning = True
        if pending.woken is not None:
            pending.woken.acquire()
        if pending.result is None and pending.error is None:
            self._scan_batch()
        if pending.error is not None:
            raise pending.error
        return pending.result or []

    def _scan_batch(self) -> None:
        with self._lock:
            batch = self._take()
        started_s = time.perf_counter()
        try:
            results = iter(self._scan(_joined([search.query for search in batch])))
            for search in batch:
                search.result = [next(results) for _ in range(search.query.limits.shape[0])]
        except BaseException as error:
            for search in batch:
                search.error = error
        with self._lock:
            self.scans += 1
            following = self._queue[0] if self._queue else None
            self._scanning = following is not None
        took_s = time.perf_counter() - started_s
        for waiting in (*batch[1:], following):  # the first is the caller's own
            if waiting is not None and waiting.woken is not None:
                waiting.woken.release()
        self._report(len(batch), took_s)

    def _report(self, searches: int, took_s: float) -> None:
        """Calls `watch` after all searches are woken. Its errors are logged and fail no search."""
        if self.watch is None:
            return
        try:
            self.watch(searches, took_s)
        except Exception:
            _log.exception("Failed to count a scan")

    def _take(self) -> list[_PendingSearch]:
        """Takes the searches of the next scan from the queue. The caller's own is first."""
        batch = [self._queue.popleft()]
        probes = batch[0].query.limits.shape[0]
        while self._queue and probes + self._queue[0].query.limits.shape[0] <= MAX_PROBES:
            batch.append(self._queue.popleft())
            probes += batch[-1].query.limits.shape[0]
        return batch


def _joined(queries: Sequence[Query]) -> Query:
    if len(queries) == 1:
        return queries[0]
    return Query(
        np.concatenate([query.probes for query in queries]),
        np.concatenate([query.limits for query in queries]),
        np.concatenate([query.thresholds for query in queries]),
    )
