"""The galleries of one process, each kept up to date from the change feed.

Durable first, searchable second: a write is finished when it is in the database, and every
process applies new changes of the database before it searches. So all workers return the same
result, a client finds what it has written, and no worker finds an erased person again.

Segments on disk are a cache that the processes share: a process maps them at its start and replays
the changes after them. Segments that cannot be used (missing, damaged, of another database, ahead
of it) are rebuilt from the database, and the log says so.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select

from match_server.db.database import Database
from match_server.db.tables import Collection
from match_server.services.collection_ref import CollectionRef
from match_server.services.encryption.vault import Vault
from match_server.services.galleries.follower import GalleryFollower, GalleryState, OpenGallery
from match_server.services.revision import FeedPosition, feed_position
from shared.errors import Damaged, KeyMissing, ModelMismatch, MusterError, Unavailable
from shared.gallery import DiskIndex, MemoryIndex, open_gallery

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_MIN_SEQ_WAIT_S = 2.0
_POLL_S = 0.01


def open_segments(folder: Path | None, dimension: int, origin: str) -> MemoryIndex:
    """The default gallery, kept in `folder`."""
    return open_gallery(folder, dimension, origin=origin)


class Galleries:
    """All galleries of this process, opened when they are first searched. Thread-safe.

    Segments lie in one folder a collection below `folder`; None keeps everything in memory, as
    the templates of encrypted collections always are.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        open_gallery: OpenGallery = open_segments,
        *,
        folder: Path | None = None,
        on_scan: Callable[[int, float], None] = lambda *_: None,
        on_mend: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._vault = vault
        self._open = open_gallery
        self._folder = folder
        self._on_mend = on_mend  # called for each gallery that differed and was mended
        self._differing = 0
        self._on_scan = on_scan  # called with the number of searches and the seconds of each scan
        self._lock = threading.Lock()  # guards the dictionary only
        self._followers: dict[_Kind, GalleryFollower] = {}
        self._failures: dict[_Kind, str] = {}  # why a gallery could not be brought up to date
        self._seen: FeedPosition | None = None
        self._stopping = threading.Event()

    def caught_up(
        self,
        collection: Collection | CollectionRef,
        min_seq: int | None = None,
        *,
        newest: FeedPosition | None = None,
    ) -> GalleryState:
        """The collection's gallery with everything that was committed before this call.

        A caller that has read the feed's position for this request passes it as `newest`. With
        `min_seq`, waits up to 2 s for a write of that number; Unavailable when it does not
        come.
        """
        follower = self._follower(collection)
        deadline_s = time.monotonic() + _MIN_SEQ_WAIT_S
        while True:
            reached = follower.catch_up(newest=newest)
            newest = None
            if reached.feed != self._seen:
                self._forget_erased(reached.feed)
            if min_seq is None or reached.seq >= min_seq:
                return reached
            if time.monotonic() >= deadline_s:
                raise Unavailable(
                    f"write {min_seq} has not come within {_MIN_SEQ_WAIT_S:g} s; "
                    f"the feed stands at {reached.seq}",
                    seq=reached.seq,
                )
            time.sleep(_POLL_S)

    def warm(self) -> None:
        """Open the galleries of all collections before the first search."""
        with self._database.read() as session:
            collections = list(session.scalars(select(Collection)))
        for collection in collections:
            follower = self._follower(collection)
            self._guarded(follower, follower.catch_up)

    def follow(self) -> None:
        """Apply to the open galleries what was committed before this call."""
        newest = feed_position(self._database)
        if newest != self._seen and self._forget_erased(newest):
            self.warm()  # the model of a collection may have changed
        for follower in self._open_followers():
            follower.refresh()
            self._guarded(follower, partial(follower.catch_up, newest=newest))

    def compare(self) -> None:
        """Compare the open galleries with the database, and mend and log those that differ."""
        self._differing = sum(
            self._guarded(follower, follower.compare) is False
            for follower in self._open_followers()
        )

    def verify(self) -> None:
        """Read the files of the open galleries: what has changed is not searched, and rebuilt."""
        for follower in self._open_followers():
            self._guarded(follower, follower.verify)

    def stored_differences(self) -> list[str]:
        """In words, how the files of galleries differ from the database. Reads only."""
        with self._database.read() as session:
            collections = list(session.scalars(select(Collection).order_by(Collection.name)))
        differences = []
        for collection in collections:
            try:
                difference = self._follower(collection).stored_difference()
            except MusterError as error:
                differences.append(f"{collection.name}: {error.message}")
            else:
                if difference is not None:
                    differences.append(f"{collection.name}: {difference}")
        return differences

    def _open_followers(self) -> list[GalleryFollower]:
        with self._lock:
            return list(self._followers.values())

    def _guarded(self, follower: GalleryFollower, step: Callable[[], Result]) -> Result | None:
        """Take a step of one gallery; log why that fails, if it did not fail so before."""
        try:
            result = step()
        except (KeyMissing, Damaged, ModelMismatch) as error:
            if self._failures.get(follower.kind) != error.message:
                log.warning("Failed to follow a gallery", extra={"why": error.message})
            self._failures[follower.kind] = error.message
            return None
        self._failures.pop(follower.kind, None)
        return result

    def lag(self) -> int:
        """Changes that the galleries of this process have not applied yet, at most of any."""
        newest = feed_position(self._database)
        reached = [follower.reached for follower in self._open_followers()]
        return max((_behind(newest, feed) for feed in reached if feed is not None), default=0)

    def clean_until(self) -> int | None:
        """Up to which change nothing that was erased is held by this process or its files.

        None: removed templates are still to be rewritten, or a gallery is not loaded.
        """
        newest = feed_position(self._database)
        followers = self._open_followers()
        reached = [follower.reached for follower in followers]  # before `dead` is read
        known = [feed.seq for feed in reached if feed is not None and feed.epoch == newest.epoch]
        if len(known) < len(reached) or any(follower.dead for follower in followers):
            return None
        return min([newest.seq, *known])

    def differing(self) -> int:
        """Galleries of this process that differed from the database at the last comparison."""
        return self._differing

    def damaged(self) -> int:
        """Templates that this process could not read, so that no search finds them."""
        return sum(len(follower.damaged) for follower in self._open_followers())

    def scrub(self, collection_number: int) -> bool:
        """Rewrite a collection's files without removed templates; returns whether none is left."""
        with self._database.read() as session:
            collection = session.get(Collection, collection_number)
        if collection is None or collection.encrypted or self._folder is None:  # there are no files
            return True
        for number in range(collection.generation):  # of models before this one, left by a crash
            shutil.rmtree(
                self._folder / _folder_name_of(collection.number, number), ignore_errors=True
            )
        gallery = self.caught_up(collection).gallery
        if not isinstance(gallery, DiskIndex):
            return True
        try:
            if gallery.dead:
                gallery.compact()
        except OSError as error:  # a full disk, most often: tried again
            log.warning(
                "Failed to remove erased templates from segments", extra={"why": error.strerror}
            )
        return not gallery.dead

    def interrupt(self) -> None:
        """End the catch-ups of this process, which is to end: they raise Unavailable."""
        self._stopping.set()

    def close(self) -> None:
        """Seal this process's own segments, so that the next start has less to replay."""
        with self._lock:
            followers, self._followers = list(self._followers.values()), {}
        for follower in followers:
            follower.close()

    def _follower(self, collection: Collection | CollectionRef) -> GalleryFollower:
        with self._lock:
            kind = collection.number, collection.generation
            follower = self._followers.get(kind)
            if follower is None:
                folder = None if collection.encrypted else self._folder
                follower = GalleryFollower(
                    self._database,
                    self._vault,
                    collection,
                    self._opened,
                    folder and folder / _folder_name(collection),
                    self._stopping,
                    self._on_mend,
                )
                self._followers[kind] = follower
            return follower

    def _opened(self, folder: Path | None, dimension: int, origin: str) -> MemoryIndex:
        gallery = self._open(folder, dimension, origin)
        gallery.watch_scans(self._on_scan)
        return gallery

    def _forget_erased(self, feed: FeedPosition) -> bool:
        """Close the galleries of erased collections and former models, and delete their files.

        Returns whether there were any.
        """
        with self._lock:
            open_before = set(self._followers)  # the database is read after it: none is newer
        with self._database.read() as session:
            columns = select(Collection.number, Collection.generation)
            existing = {(row.number, row.generation) for row in session.execute(columns)}
        with self._lock:
            kinds = (open_before - existing) & self._followers.keys()
            gone = [self._followers.pop(kind) for kind in kinds]
            self._seen = feed
        for follower in gone:
            follower.close(erase=True)
        return bool(gone)


_Kind = tuple[int, int]  # number of the collection, and which of its models


def _behind(newest: FeedPosition, reached: FeedPosition) -> int:
    """Changes that a gallery lacks; one at least if it has not been judged in this epoch yet."""
    return max(newest.seq - reached.seq, int(newest.epoch != reached.epoch))


def _folder_name(collection: Collection | CollectionRef) -> str:
    return _folder_name_of(collection.number, collection.generation)


def _folder_name_of(number: int, generation: int) -> str:
    return f"{number}-{generation}" if generation else str(number)
