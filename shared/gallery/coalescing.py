"""Concurrent searches answered by one scan: reading the codes costs more than comparing them.

A search that finds no scan running starts one at once. Those that arrive meanwhile wait for its
end, and then one of them scans for all. So no search waits for company, and none waits longer than
the scan that ran when it came.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from shared.gallery.scan import Ask, Ranked

_log = logging.getLogger(__name__)

MOST_PROBES = 128
"""Probes that one scan takes (one search of more goes alone)."""

Scan = Callable[[Ask], list[Ranked]]


@dataclass(slots=True, eq=False)
class _Waiting:
    """One search in the queue. It is woken with an answer, an error, or the turn to scan."""

    ask: Ask
    woken: threading.Event = field(default_factory=threading.Event)
    answer: list[Ranked] | None = None
    error: BaseException | None = None


class Gathering:
    """The queue of one gallery's searches. It is as long as there are threads that search."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._lock = threading.Lock()
        self._queue: deque[_Waiting] = deque()
        self._scanning = False
        self.scans = 0
        """Scans so far: fewer than searches where some were gathered."""
        self.watch: Callable[[int, float], None] | None = None
        """Told of each scan: how many searches it answered, and the seconds that it took."""

    def search(self, ask: Ask) -> list[Ranked]:
        """The answer of a scan that starts after this call."""
        mine = _Waiting(ask)
        with self._lock:
            self._queue.append(mine)
            wait, self._scanning = self._scanning, True
        if wait:
            mine.woken.wait()
        if mine.answer is None and mine.error is None:
            self._scan_for_all()
        if mine.error is not None:
            raise mine.error
        return mine.answer or []

    def _scan_for_all(self) -> None:
        with self._lock:
            party = self._take()
        started_s = time.perf_counter()
        try:
            answers = iter(self._scan(_joined([each.ask for each in party])))
            for each in party:
                each.answer = [next(answers) for _ in range(each.ask.limits.shape[0])]
        except BaseException as error:
            for each in party:
                each.error = error
        with self._lock:
            self.scans += 1
            following = self._queue[0] if self._queue else None
            self._scanning = following is not None
        took_s = time.perf_counter() - started_s
        for each in party:
            each.woken.set()
        if following is not None:
            following.woken.set()
        self._report(len(party), took_s)

    def _report(self, searches: int, took_s: float) -> None:
        """Call `watch`, after all are woken; a failure of it is logged and fails no search."""
        if self.watch is None:
            return
        try:
            self.watch(searches, took_s)
        except Exception:
            _log.exception("A scan could not be counted")

    def _take(self) -> list[_Waiting]:
        """Those who scan together; whoever has the turn is first in the queue."""
        party = [self._queue.popleft()]
        probes = party[0].ask.limits.shape[0]
        while self._queue and probes + self._queue[0].ask.limits.shape[0] <= MOST_PROBES:
            party.append(self._queue.popleft())
            probes += party[-1].ask.limits.shape[0]
        return party


def _joined(asks: Sequence[Ask]) -> Ask:
    if len(asks) == 1:
        return asks[0]
    return Ask(
        np.concatenate([ask.probes for ask in asks]),
        np.concatenate([ask.limits for ask in asks]),
        np.concatenate([ask.thresholds for ask in asks]),
    )
