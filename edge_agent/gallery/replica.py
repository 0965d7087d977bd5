"""Keeps one gallery in step with the server's change feed: one thread for one collection."""

import logging
import random
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final, Protocol

from edge_agent.gallery.edge_gallery import EdgeGallery
from shared.backoff import Backoff, retry_after_s
from shared.clock import Clock, SystemClock
from shared.errors import (
    Damaged,
    Forbidden,
    KeyMissing,
    ModelMismatch,
    MusterError,
    NotFound,
    SnapshotNeeded,
    Unauthenticated,
    Unavailable,
)
from shared.wire.change_feed import FeedChanges, Held, SnapshotHead, SnapshotPart

log = logging.getLogger(__name__)

_WAIT_S: Final = 20.0  # for which the server may keep a request open until there is a change
_MIN_WAIT_S: Final = 1.0  # an empty response that comes sooner: the server did not wait
_BUSY_PAUSE_S: Final = 8.0  # then: too many requests wait at the server
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 60.0
_REFUSED_PAUSE_S: Final = 60.0  # a person must act first
_TIDY_S: Final = 300.0
_COMPARE_S: Final = 300.0
_COMPARE_SOON_S: Final = 30.0  # there were changes, so that nothing could be compared


class Feed(Protocol):
    """The feed of the server; `edge_agent.gallery.feed_client.FeedClient`."""

    def changes(
        self, collection: str, since: int, scope: str, wait_s: float, held: Held | None = None
    ) -> FeedChanges: ...

    def snapshot(
        self, collection: str, after: int
    ) -> AbstractContextManager[tuple[SnapshotHead, Iterator[SnapshotPart]]]: ...

    def close(self) -> None: ...


class Follower:
    """Copies the changes of one collection. It logs each failure once, and once its end.

    Where the server refuses the collection or has deleted it, the copy is deleted.
    """

    def __init__(
        self,
        gallery: EdgeGallery,
        feed: Feed,
        *,
        clock: Clock | None = None,
        jitter: random.Random | None = None,
        wait_s: float = _WAIT_S,
    ) -> None:
        self.gallery = gallery
        self._feed = feed
        self._clock = clock or SystemClock()
        self._jitter = jitter or random.Random()  # noqa: S311  # spreads retries, hides nothing
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, jitter=self._jitter)
        self._wait_s = wait_s
        self._stopping = threading.Event()
        self._failures = 0
        self._tidied_s = self._clock.monotonic_s()
        self._compare_s = self._clock.monotonic_s()  # when the gallery is to be compared next
        self._complaint: str | None = None
        self._in_touch = False
        self._thread = threading.Thread(
            target=self._run, name=f"gallery-{gallery.collection}", daemon=True
        )

    @property
    def in_touch(self) -> bool:
        """Whether the last request to the server succeeded."""
        return self._in_touch

    @property
    def complaint(self) -> str | None:
        """Why the feed cannot be followed at the moment; None while it is followed."""
        return self._complaint

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Returns whether the thread has ended; else it ends after its present request.

        The gallery is closed with it.
        """
        self._stopping.set()
        if self._thread.ident is None:
            self._close()
        else:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def step(self) -> float:
        """Sends one request and applies the response; returns the pause before the next, in s."""
        try:
            pause_s = self._follow()
        except SnapshotNeeded as error:
            log.warning(
                "Gallery %s needs a new snapshot: %s", self.gallery.collection, error.message
            )
            self.gallery.clear()
            return 0.0
        except (Damaged, KeyMissing) as error:
            log.error("Gallery %s is downloaded again: %s", self.gallery.collection, error.message)
            self.gallery.clear()
            return self._failed(error, in_touch=self._in_touch)
        except (Forbidden, NotFound, ModelMismatch) as error:
            if self.gallery.state is not None:
                log.warning("Deleting gallery %s", self.gallery.collection)
                self.gallery.clear()
            return self._failed(error, in_touch=True)
        except (Unauthenticated, Unavailable) as error:
            return self._failed(error, in_touch=False)
        if self._complaint is not None:
            log.warning("Gallery %s is followed again", self.gallery.collection)
        self._complaint, self._failures, self._in_touch = None, 0, True
        return pause_s

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                pause_s = self.step()
                self._tidy()
                self._stopping.wait(pause_s)
        finally:
            self._close()

    def _close(self) -> None:
        self._feed.close()
        self.gallery.close()

    def _follow(self) -> float:
        state, damage = self.gallery.state, self.gallery.damage
        if state is None or not state.whole:
            self._take_snapshot(0 if state is None else state.after or 0)
            return 0.0
        began_s = self._clock.monotonic_s()
        may_wait = state.caught_up and self._in_touch and damage is None
        wait_s = self._wait_s if may_wait else 0.0
        due = may_wait and began_s >= self._compare_s
        held = self.gallery.held() if due else None
        changes = self._feed.changes(
            self.gallery.collection, state.seq, state.gallery.scope, wait_s, held
        )
        if held is not None:
            pause_s = _COMPARE_S if changes.seq == state.seq else _COMPARE_SOON_S
            self._compare_s = began_s + pause_s * self._jitter.uniform(0.8, 1.2)
        if self._stopping.is_set():
            return 0.0
        if damage is not None:  # only now: without the server, the remaining rows are useful
            raise Damaged(damage)
        quick = self._clock.monotonic_s() - began_s < min(_MIN_WAIT_S, self._wait_s)
        self.gallery.apply(changes)
        if wait_s and quick and changes.seq == state.seq:
            return _BUSY_PAUSE_S * self._jitter.uniform(0.5, 1.5)
        return 0.0

    def _take_snapshot(self, after: int) -> None:
        """Downloads a snapshot, or the rest of one that was cut short."""
        collection = self.gallery.collection
        with self._feed.snapshot(collection, after) as (head, parts):
            state = self.gallery.state
            self._in_touch = True
            if after == 0 or state is None:
                self.gallery.begin(head)
            elif state.gallery.scope != head.gallery.scope:
                raise SnapshotNeeded("the part that this box may hold has changed")
            for part in parts:
                self.gallery.extend(part)
                if self._stopping.is_set():
                    return
        self.gallery.complete()
        self._compare_s = self._clock.monotonic_s()
        log.info("Gallery %s: %d templates received", collection, len(self.gallery))

    def _failed(self, error: MusterError, *, in_touch: bool) -> float:
        self._failures += 1
        self._in_touch = in_touch
        if self._complaint != error.message:
            log.error("Gallery %s: %s", self.gallery.collection, error.message)
        self._complaint = error.message
        needs_person = isinstance(error, Forbidden | NotFound | ModelMismatch | Unauthenticated)
        at_least_s = _REFUSED_PAUSE_S if needs_person else 0.0
        pause_s = self._backoff.pause_s(self._failures, at_least_s=at_least_s)
        return max(retry_after_s(error), pause_s)

    def _tidy(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._tidied_s >= _TIDY_S:
            self._tidied_s = now_s
            try:
                self.gallery.tidy()
            except (Unavailable, Damaged, KeyMissing) as error:
                log.error("Gallery %s: %s", self.gallery.collection, error.message)
