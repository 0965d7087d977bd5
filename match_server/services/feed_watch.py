"""One thread that reads the feeds' positions for all requests that wait for changes."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import bindparam, func, select

from match_server.db.database import Database
from match_server.db.tables import Change
from match_server.services.change_feed import position
from match_server.services.revision import FeedPosition, feed_position
from shared.errors import MusterError

log = logging.getLogger(__name__)

EVENTS: Final = -1
"""In place of a collection's number: the numbers of events."""
_POLL_S: Final = 0.25  # where commits of other processes give no signal
_PAUSE_S: Final = 1.0  # while the database cannot be read

_NEWEST = select(func.max(Change.seq)).where(Change.collection_number == bindparam("collection"))


class FeedWait:
    """A `parking.Wait` for anything after number `since` of one feed, until a deadline."""

    def __init__(self, watch: "FeedWatch", feed: int, since: int, deadline_s: float) -> None:
        self._watch = watch
        self.feed = feed  # number of the collection, or EVENTS
        self.since = since
        self.deadline_s = deadline_s  # monotonic
        self.wake: Callable[[], None] = lambda: None

    def start(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self._watch.add(self)

    def cancel(self) -> None:
        self._watch.discard(self)

    def block(self, stopping: Callable[[], bool]) -> None:
        """Wait in this thread, where no worker can park the request."""
        over = threading.Event()
        self.start(over.set)
        try:
            while not over.wait(_POLL_S) and not stopping():
                pass
        finally:
            self.cancel()


class FeedWatch:
    """Ends each wait when its feed has a new change, or at its deadline. Thread-safe.

    All waits end when an epoch of the change feed begins: their numbers may be of a lost change.

    Each poll costs one short query, and one more for each feed that has waits. The number of waits
    is bounded by the connections of the worker.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changed = threading.Condition()
        self._waits: set[FeedWait] = set()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._positions: tuple[FeedPosition, int] | None = None  # of changes and events, last
        self._newest: dict[int, int] = {}  # by feed, at that poll

    def wait(self, feed: int, since: int, deadline_s: float) -> FeedWait:
        """A wait that has not been started yet."""
        return FeedWait(self, feed, since, deadline_s)

    def add(self, wait: FeedWait) -> None:
        with self._changed:
            self._waits.add(wait)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="feed-watch", daemon=True)
                self._thread.start()
            self._changed.notify()

    def discard(self, wait: FeedWait) -> None:
        with self._changed:
            self._waits.discard(wait)

    def close(self) -> None:
        """Wake all, and end the thread."""
        with self._changed:
            self._closed = True
            thread, self._thread = self._thread, None
            waits, self._waits = self._waits, set()
            self._changed.notify()
        for wait in waits:
            wait.wake()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waits or self._closed)
                if self._closed:
                    return
                waits = list(self._waits)
            signals = self._database.commit_signal.signals
            begun = False
            try:
                begun = self._poll({wait.feed for wait in waits})
            except MusterError as error:
                log.warning("Failed to read the feeds", extra={"why": error.message})
                time.sleep(_PAUSE_S)
            except Exception:  # the deadlines of the waits must hold in any case
                log.exception("Failed to read the feeds")
                time.sleep(_PAUSE_S)
            self._wake_due(waits, every=begun)
            self._database.commit_signal.wait(signals, _POLL_S)

    def _poll(self, feeds: set[int]) -> bool:
        """Read the newest number of each of these feeds; returns whether an epoch has begun."""
        positions = feed_position(self._database), position(self._database, "events")
        before, self._positions = self._positions, positions
        if positions != before:
            self._newest = {EVENTS: positions[1]}
        for feed in feeds - self._newest.keys():
            ((newest,),) = self._database.execute(_NEWEST, {"collection": feed})
            self._newest[feed] = newest or 0
        return before is not None and before[0].epoch != positions[0].epoch

    def _wake_due(self, waits: list[FeedWait], *, every: bool) -> None:
        now_s = time.monotonic()
        for wait in waits:
            due = self._newest.get(wait.feed, 0) > wait.since or now_s >= wait.deadline_s
            if every or due:
                self.discard(wait)
                wait.wake()
