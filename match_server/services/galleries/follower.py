"""One collection's gallery in one process, kept up to date from the change feed.

The gallery's watermark is read before the feed's position that it is compared with. Changes that a
gallery contains were committed before they were written to its files, so a watermark above a
position that was read later is of another or an older database. So is one of an earlier epoch of
the feed that is above the changes which the database has of that epoch (docs/feed.md).
"""

import logging
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.engines import let_wait
from match_server.db.tables import Change, Collection, Template
from match_server.services.collection_ref import CollectionRef
from match_server.services.encryption.stored_templates import (
    TEMPLATES,
    Readable,
    read_templates,
)
from match_server.services.encryption.vault import Cipher, Vault
from match_server.services.galleries.comparison import Content, Difference, Numbers, compare
from match_server.services.lookups import batches
from match_server.services.revision import FeedPosition, feed_position, shared_with
from shared.errors import CollectionUnavailable, ModelMismatch, Unavailable
from shared.gallery import DiskIndex, MemoryIndex, MissingChanges, stored_content

log = logging.getLogger(__name__)

OpenGallery = Callable[[Path | None, int, str], MemoryIndex]
"""Folder (None: in memory), dimension, and what the folder belongs to."""

_CHUNK = 8192  # rows read at a time: 8 MiB of float16 at 512 dimensions
_STEP = 32768
"""Changes that are applied at a time; with more to apply, one process does it for all."""
_MAX_PRIVATE = 4 * _STEP
"""Templates that a catch-up keeps in private memory before it waits for a segment of them."""
_LEADER_TIMEOUT_S = 5.0  # without a new segment of the process that does it for all
_LEADER_POLL_S = 0.05  # how often a process looks at what another one has applied for all
_COMPACT_AFTER_S = 30.0
"""Erased templates are removed from the segments' files within twice this time."""
_MANY = 32768
"""Templates that differ from the database, from which a gallery is rebuilt and not mended."""
_ATTEMPTS = 16
"""Rounds of a catch-up, each undone by another process that wrote segments at that moment."""


@dataclass(frozen=True, slots=True)
class GalleryState:
    """A gallery that holds every write up to a position of the feed, and perhaps later writes."""

    gallery: MemoryIndex
    feed: FeedPosition

    @property
    def seq(self) -> int:
        return self.feed.seq


class GalleryFollower:
    """One collection's gallery, which holds every change up to its watermark."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        collection: Collection | CollectionRef,
        open_gallery: OpenGallery,
        folder: Path | None,
        stopping: threading.Event,
        on_mend: Callable[[], None],
    ) -> None:
        """When `stopping` is set, a catch-up ends with Unavailable between two steps.

        `on_mend` is called when the gallery differed from the database and was mended.
        """
        self._database = database
        self._vault = vault
        self._collection = collection
        self._number = collection.number
        self.kind = collection.number, collection.generation
        self._model_id = collection.model_id
        self._dimension = collection.dimension
        self._origin = f"{collection.number}/{collection.model_id}/{collection.created_at}"
        self._open = open_gallery
        self._folder = folder
        self._stopping = stopping
        self._on_mend = on_mend
        self._gallery: MemoryIndex | None = None
        self.damaged: frozenset[int] = frozenset()  # templates in use that could not be read
        self._lock = threading.Lock()
        self._compaction: threading.Timer | None = None

    @property
    def reached(self) -> FeedPosition | None:
        """The change that the gallery has applied; None before it is opened."""
        gallery = self._gallery
        return None if gallery is None else FeedPosition(*gallery.reached)

    @property
    def dead(self) -> int:
        """Removed templates that the segments still hold."""
        gallery = self._gallery
        return 0 if gallery is None else gallery.dead

    def verify(self) -> None:
        """Read all of the segments' files: one that has changed is rebuilt, and not searched."""
        if isinstance(self._gallery, DiskIndex):
            self._gallery.verify_again()

    def refresh(self) -> None:
        """Map the segments that another process has written."""
        if self._gallery is not None:
            self._gallery.refresh()

    def catch_up(self, *, newest: FeedPosition | None = None) -> GalleryState:
        """Apply the changes that were committed before this call, or up to `newest` at least.

        A gallery that is opened is compared with the database, and mended, before it is searched.
        Raises CollectionUnavailable, ModelMismatch.
        """
        gallery = self._gallery
        if gallery is not None and gallery.damage is None:
            if gallery.reached != newest:
                newest = feed_position(self._database)
            if gallery.reached == newest:
                return GalleryState(gallery, newest)
        with self._lock:
            gallery = self._gallery
            if gallery is None:
                gallery = self._opened()
                self._repeat(lambda: self._brought_up(gallery))
                self._mend(gallery, self._difference(gallery.content()))
                self._gallery = gallery  # not before: a half loaded gallery must not be searched
            else:
                self._repeat(lambda: self._brought_up(gallery))
            return GalleryState(gallery, FeedPosition(*gallery.reached))

    def compare(self) -> bool:
        """Compare the gallery with the database, and mend it; returns whether they agreed.

        The database is read beside searches. Raises as `catch_up`.
        """
        gallery = self.catch_up().gallery
        difference = self._difference(gallery.content())
        if difference is not None:
            with self._lock:
                self._mend(gallery, difference)
        return difference is None

    def _repeat(self, attempt: Callable[[], bool]) -> None:
        for _ in range(_ATTEMPTS):
            if attempt():
                return
        raise CollectionUnavailable("other processes keep writing the gallery's files; try again")

    def _brought_up(self, gallery: MemoryIndex) -> bool:
        """Bring the gallery to the feed's position; False: another process interfered, try again.

        Many changes are applied in steps, by one process of the machine, which writes segments of
        them; the others wait and map these. A search does not see the gallery between two steps.
        """
        brought = self._step(gallery, leads=False)
        seen, until_s = ("", -1), 0.0
        while brought is None:
            with gallery.leading() as leads:
                if gallery.reached != seen:
                    seen, until_s = gallery.reached, time.monotonic() + _LEADER_TIMEOUT_S
                if leads or time.monotonic() >= until_s:  # in vain: the leader is frozen
                    while (brought := self._step(gallery, leads=True)) is None:
                        gallery.bound_private(_MAX_PRIVATE)
                    gallery.bound_private(0)  # so that the others need not apply the rest
                    return brought
            time.sleep(_LEADER_POLL_S)
            brought = self._step(gallery, leads=False)
        return brought

    def _step(self, gallery: MemoryIndex, *, leads: bool) -> bool | None:
        """Apply the next changes; None: there are many more. Without `leads`, many are left alone.

        The watermark is read before the session begins: the position that it sees is never older.
        """
        self._require_running()
        (epoch, watermark), damage = gallery.reached, gallery.damage
        with self._database.read() as session:
            newest = feed_position(session)
            self._require_generation(session)
            if epoch != newest.epoch and gallery.refresh(newest.epoch):
                return False  # another process has written the files in this epoch: judge them
            if why := _unusable(damage, watermark, shared_with(session, newest, epoch)):
                if not self._rebuild(session, gallery, newest, why):
                    return False
            elif (epoch, watermark) != newest:
                changes = self._changes(session, watermark, newest.seq)
                many = len(changes) == _STEP
                if many and not leads:
                    return None
                try:
                    end = newest._replace(seq=changes[-1].seq) if many else newest
                    self._replay(session, gallery, watermark, end, changes)
                except MissingChanges:  # another process has rebuilt the files meanwhile
                    return False
                if many:
                    return None
            return gallery.damage is None and _holds(gallery, newest)

    def stored_difference(self) -> Difference | None:
        """How the files of the gallery differ from the database. Reads only.

        Returns None where they do not, or where there are none. Raises DamagedSegments, KeyMissing,
        Damaged, ModelMismatch.
        """
        if self._folder is None:
            return None
        content = stored_content(self._folder, self._dimension, self._origin)
        return None if content is None else self._difference(content)

    def _difference(self, content: Content) -> Difference | None:
        """How the content of the gallery differs from the database; None: it does not."""
        with self._database.read() as session:
            self._require_generation(session)

            def readable(numbers: Numbers) -> Numbers:
                if numbers.shape[0] > _MANY:  # the gallery is rebuilt in any case
                    return numbers
                return self._readable(session, numbers.tolist())[0]

            cipher = self._vault.cipher(session, self._collection)
            return compare(session, cipher, self._collection, content, readable)

    def _mend(self, gallery: MemoryIndex, difference: Difference | None) -> None:
        """Bring the templates of a difference to the state of the database. The lock is held."""
        if difference is None:
            return
        many = difference.numbers.shape[0] > _MANY
        log.error(
            "Rebuilding a gallery that differs from the database"
            if many
            else "Mending a gallery that differs from the database",
            extra={"collection": self._number, "why": str(difference)},
        )
        self._repeat(
            lambda: (
                self._brought_up(gallery)
                and self._mended(gallery, None if many else difference.numbers, str(difference))
            )
        )
        self._on_mend()

    def _mended(self, gallery: MemoryIndex, numbers: NDArray[np.uint64] | None, why: str) -> bool:
        """Replace these templates, or all (None), by those of the database.

        Returns False where changes came meanwhile.
        """
        with self._database.read() as session:
            newest = feed_position(session)
            self._require_generation(session)
            if numbers is None:
                return self._rebuild(session, gallery, newest, why) and gallery.damage is None
            read = self._readable(session, numbers.tolist())
            mended = gallery.mend(newest, numbers, *read)
        self._compact_soon(gallery)
        return mended

    def close(self, *, erase: bool = False) -> None:
        """Stop following. With `erase`, delete the files too, because the collection was erased."""
        with self._lock:
            if self._compaction is not None:
                self._compaction.cancel()
            if self._gallery is not None:
                self._gallery.close()
            if erase and self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _require_generation(self, session: Session) -> None:
        """Raises ModelMismatch when the collection's model was changed since."""
        statement = select(Collection.generation).where(Collection.number == self._number)
        generation = session.scalar(statement)
        if generation is not None and generation != self._collection.generation:
            raise ModelMismatch(
                f"the model of collection {self._collection.name!r} has just been changed; "
                "search again"
            )

    def _require_running(self) -> None:
        """Raises Unavailable when this process is to end."""
        if self._stopping.is_set():
            raise Unavailable("this server is stopping")

    def _opened(self) -> MemoryIndex:
        started_s = time.monotonic()
        gallery = self._open(self._folder, self._dimension, self._origin)
        if isinstance(gallery, DiskIndex):
            gallery.verify_first(lambda: not self._stopping.is_set())
            self._require_running()
        if gallery.watermark:
            self._log("Mapped a gallery", gallery, started_s, seq=gallery.watermark)
            if gallery.dead:
                self._compact_soon(gallery)
        return gallery

    def _rebuild(
        self, session: Session, gallery: MemoryIndex, newest: FeedPosition, why: str
    ) -> bool:
        started_s = time.monotonic()
        let_wait(session.connection())
        done = gallery.rebuild(self._all_templates(session), newest.seq, newest.epoch)
        if done:
            self._log("Built a gallery from the database", gallery, started_s, why=why)
        return done

    def _log(self, what: str, gallery: MemoryIndex, started_s: float, **more: object) -> None:
        took_s = round(time.monotonic() - started_s, 3)
        log.info(
            what,
            extra={
                "collection": self._number,
                "templates": len(gallery),
                "took_s": took_s,
                **more,
            },
        )

    def _all_templates(
        self, session: Session
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float16]]]:
        self.damaged = frozenset()
        after, cipher = 0, self._vault.cipher(session, self._collection)
        while rows := session.execute(
            TEMPLATES.where(
                Template.collection_number == self._number,
                Template.model_id == self._model_id,
                Template.number > after,
            )
            .order_by(Template.number)
            .limit(_CHUNK)
        ).all():
            self._require_running()
            after = rows[-1].number
            read = self._read(cipher, rows)
            yield read.numbers, read.vectors

    def _read(self, cipher: Cipher, rows: Sequence[Any]) -> Readable:
        """Read rows of `TEMPLATES`; rows that cannot be read are logged and left out."""
        read = read_templates(cipher, self._model_id, self._dimension, rows)
        for number, (template_id, why) in read.damaged.items():
            if number not in self.damaged:
                where = {"collection": self._number, "template": template_id, "why": why}
                log.error("Failed to read a template, so no search finds it", extra=where)
        if self.damaged or read.damaged:
            self.damaged = (self.damaged | read.damaged.keys()) - set(read.numbers.tolist())
        return read

    def _rows(self, session: Session, numbers: Sequence[int]) -> Sequence[Any]:
        """The rows of those of these templates that exist."""
        mine = Template.number.in_(numbers), Template.model_id == self._model_id
        return session.execute(TEMPLATES.where(*mine)).all()

    def _readable(
        self, session: Session, numbers: Sequence[int]
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Those of these templates that exist and can be read, and their vectors."""
        cipher = self._vault.cipher(session, self._collection)
        parts = [self._read(cipher, self._rows(session, chunk)) for chunk in batches(numbers)]
        empty = np.empty((0, self._dimension), np.float16)
        return (
            np.concatenate([np.empty(0, np.uint64), *(part.numbers for part in parts)]),
            np.concatenate([empty, *(part.vectors for part in parts)]).astype(np.float32),
        )

    def _changes(self, session: Session, since: int, newest: int) -> Sequence[Any]:
        """The first changes of templates (seq, kind, template) after `since`, at most a step."""
        return session.execute(
            select(Change.seq, Change.kind, Change.template_number)
            .where(
                Change.collection_number == self._number,
                Change.seq > since,
                Change.seq <= newest,
                Change.template_number.is_not(None),
            )
            .order_by(Change.seq)
            .limit(_STEP)
        ).all()

    def _replay(
        self,
        session: Session,
        gallery: MemoryIndex,
        since: int,
        to: FeedPosition,
        changes: Sequence[Any],
    ) -> None:
        """Apply these changes, which are all after `since` up to `to`, at once."""
        added, removed = set[int](), set[int]()
        for _, kind, number in changes:
            (removed if kind == "template_removed" else added).add(number)
        ids, vectors = self._readable(session, sorted(added - removed))
        remove = np.array(sorted(removed), dtype=np.uint64)
        gallery.apply(since, to.seq, epoch=to.epoch, remove=remove, ids=ids, vectors=vectors)
        self.damaged -= removed
        if removed:
            self._compact_soon(gallery)

    def _compact_soon(self, gallery: MemoryIndex) -> None:
        """Rewrite the segments without erased templates, after a random delay."""
        if not isinstance(gallery, DiskIndex) or self._compaction is not None:
            return

        def compact() -> None:
            self._compaction = None
            try:
                if gallery.dead:  # else another process has compacted it
                    gallery.compact()
            except OSError:
                log.exception("Failed to remove erased templates from segments")

        wait_s = _COMPACT_AFTER_S * random.uniform(1, 2)  # noqa: S311  # workers must not start together
        self._compaction = threading.Timer(wait_s, compact)
        self._compaction.daemon = True
        self._compaction.start()


def _holds(gallery: MemoryIndex, newest: FeedPosition) -> bool:
    epoch, watermark = gallery.reached
    return epoch == newest.epoch and watermark >= newest.seq


def _unusable(damage: str | None, watermark: int, shared: int | None) -> str | None:
    """Why the gallery must be rebuilt from the database; None: replaying the feed is enough.

    `shared` is the last change that a gallery of that epoch may have; it was read after the others.
    """
    if damage is not None:
        return damage
    if watermark == 0:
        return "there were no segments"
    if shared is None or watermark > shared:
        return "the segments are ahead of the database, which must be another or an older one"
    return None
