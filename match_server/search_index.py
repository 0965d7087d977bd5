"""The galleries of one process, each kept up to date from the change feed.

Durable first, searchable second: a write is finished when it is in the database, and every
process applies what is new there before it searches. So all workers answer alike, a client that
was told of a write finds it, and an erased person is not found again by any of them.

Segments on disk are a cache that the processes share: a start maps them and replays what the feed
has after them. What cannot be used (missing, damaged, of another database, ahead of it) is written
anew from the database, and the log says so.
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

from match_server.database import Database
from match_server.services.changes import position
from match_server.services.searches.scopes import Scope
from match_server.services.storing.readable import Readable, read_templates
from match_server.services.storing.vault import Cipher, Vault
from match_server.tables import Change, Collection, Template
from shared.errors import Damaged, KeyMissing, ModelMismatch, Unavailable
from shared.gallery import Gallery, SegmentedGallery, SharedGallery, open_gallery

log = logging.getLogger(__name__)

OpenGallery = Callable[[Path | None, int, str], SegmentedGallery]
"""Folder (None: in memory), dimension, and what the folder belongs to."""

_CHUNK = 8192  # rows read at a time: 8 MiB of float16 at 512 dimensions
_VARIABLES = 500  # numbers in one IN (...), below every database's limit
_MIN_SEQ_WAIT_S = 2.0
_POLL_S = 0.01
_COMPACT_AFTER_S = 30.0
"""Erased templates are gone from the segments' files within twice this time."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A gallery that holds every write up to `seq` (and perhaps later ones)."""

    gallery: Gallery
    seq: int


def open_segments(folder: Path | None, dimension: int, origin: str) -> SegmentedGallery:
    """The default gallery, kept in `folder`."""
    return open_gallery(folder, dimension, origin=origin)


class SearchIndex:
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
    ) -> None:
        self._database = database
        self._vault = vault
        self._open = open_gallery
        self._folder = folder
        self._lock = threading.Lock()  # guards the dictionary only
        self._followers: dict[_Kind, _Follower] = {}
        self._seen = 0

    def caught_up(self, collection: Collection | Scope, min_seq: int | None = None) -> Reached:
        """The collection's gallery with everything that was committed before this call.

        With `min_seq`, waits up to 2 s for a write of that number; Unavailable when it does not
        come.
        """
        follower = self._follower(collection)
        deadline_s = time.monotonic() + _MIN_SEQ_WAIT_S
        while True:
            reached = follower.catch_up()
            if reached.seq != self._seen:
                self._forget_erased(reached.seq)
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
        """Open the galleries of all collections, so that the first search need not wait."""
        with self._database.read() as session:
            collections = list(session.scalars(select(Collection)))
        for collection in collections:
            try:
                self.caught_up(collection)
            except (KeyMissing, Damaged) as error:
                log.warning("a gallery stays closed", extra={"why": error.message})

    def lag(self) -> int:
        """Changes that the galleries of this process have not applied yet, at most of any."""
        newest = position(self._database)
        with self._lock:
            reached = [follower.reached for follower in self._followers.values()]
        return max((newest - seq for seq in reached if seq is not None), default=0)

    def damaged(self) -> int:
        """Templates that this process found and could not read: nobody is found by them."""
        with self._lock:
            return sum(len(follower.damaged) for follower in self._followers.values())

    def scrub(self, collection_number: int) -> bool:
        """Rewrite a collection's files without what was removed; whether none of it is left."""
        with self._database.read() as session:
            owner = session.get(Collection, collection_number)
        if owner is None or owner.encrypted or self._folder is None:  # there are no files
            return True
        for number in range(owner.generation):  # of models before this one, left by a crash
            shutil.rmtree(self._folder / _folder_name_of(owner.number, number), ignore_errors=True)
        gallery = self.caught_up(owner).gallery
        if not isinstance(gallery, SharedGallery):
            return True
        if gallery.dead:
            gallery.compact()
        return not gallery.dead

    def close(self) -> None:
        """Seal what is private to this process, so that the next start has less to replay."""
        with self._lock:
            followers, self._followers = list(self._followers.values()), {}
        for follower in followers:
            follower.close()

    def _follower(self, collection: Collection | Scope) -> "_Follower":
        with self._lock:
            kind = collection.number, collection.generation
            follower = self._followers.get(kind)
            if follower is None:
                folder = None if collection.encrypted else self._folder
                follower = _Follower(
                    self._database,
                    self._vault,
                    collection,
                    self._open,
                    folder and folder / _folder_name(collection),
                )
                self._followers[kind] = follower
            return follower

    def _forget_erased(self, seq: int) -> None:
        """Let go of the galleries of collections and models that are gone, and of their files."""
        with self._database.read() as session:
            columns = select(Collection.number, Collection.generation)
            existing = {(row.number, row.generation) for row in session.execute(columns)}
        with self._lock:
            gone = [self._followers.pop(kind) for kind in self._followers.keys() - existing]
            self._seen = seq
        for follower in gone:
            follower.close(erase=True)


class _Follower:
    """One collection's gallery, which holds everything in the feed up to its watermark."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        collection: Collection | Scope,
        open_gallery: OpenGallery,
        folder: Path | None,
    ) -> None:
        self._database = database
        self._vault = vault
        self._owner = collection
        self._collection = collection.number
        self._model_id = collection.model_id
        self._dimension = collection.dimension
        self._origin = f"{collection.number}/{collection.model_id}/{collection.created_at}"
        self._open = open_gallery
        self._folder = folder
        self._gallery: SegmentedGallery | None = None
        self.damaged: frozenset[int] = frozenset()  # templates in use that could not be read
        self._lock = threading.Lock()
        self._compaction: threading.Timer | None = None

    @property
    def reached(self) -> int | None:
        """The change that the gallery has applied; None before it is opened."""
        gallery = self._gallery
        return None if gallery is None else gallery.watermark

    def catch_up(self) -> Reached:
        """Apply what was committed before this call."""
        gallery = self._gallery
        if gallery is not None and gallery.damage is None:
            newest = position(self._database)
            if gallery.watermark == newest:
                return Reached(gallery, newest)
        with self._lock, self._database.read() as session:
            newest = position(session)
            self._require_generation(session)
            gallery = self._gallery or self._opened()
            if why := _unusable(gallery, newest):
                self._rebuild(session, gallery, newest, why)
            elif gallery.watermark < newest:
                self._replay(session, gallery, newest)
            self._gallery = gallery  # only now: nobody searches one that is half loaded
            return Reached(gallery, gallery.watermark)

    def close(self, *, erase: bool = False) -> None:
        """Stop following. With `erase`, the files go as well: the collection is gone."""
        with self._lock:
            if self._compaction is not None:
                self._compaction.cancel()
            if self._gallery is not None:
                self._gallery.close()
            if erase and self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _require_generation(self, session: Session) -> None:
        """Raises when the collection uses another model by now: nobody may search the old one."""
        wanted = select(Collection.generation).where(Collection.number == self._collection)
        generation = session.scalar(wanted)
        if generation is not None and generation != self._owner.generation:
            raise ModelMismatch(
                f"the model of collection {self._owner.name!r} has just been changed; search again"
            )

    def _opened(self) -> SegmentedGallery:
        started_s = time.monotonic()
        gallery = self._open(self._folder, self._dimension, self._origin)
        if gallery.watermark:
            self._log("gallery mapped", gallery, started_s, seq=gallery.watermark)
            if gallery.dead:
                self._compact_soon(gallery)
        return gallery

    def _rebuild(self, session: Session, gallery: SegmentedGallery, newest: int, why: str) -> None:
        started_s = time.monotonic()
        self.damaged = frozenset()
        gallery.rebuild(self._all_templates(session), newest)
        self._log("gallery built from the database", gallery, started_s, why=why)

    def _log(self, what: str, gallery: Gallery, started_s: float, **more: object) -> None:
        took_s = round(time.monotonic() - started_s, 3)
        log.info(
            what,
            extra={
                "collection": self._collection,
                "templates": len(gallery),
                "took_s": took_s,
                **more,
            },
        )

    def _all_templates(
        self, session: Session
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float16]]]:
        after, cipher = 0, self._vault.cipher(session, self._owner)
        while rows := session.execute(
            select(Template.number, Template.id, Template.vector)
            .where(
                Template.collection_number == self._collection,
                Template.model_id == self._model_id,
                Template.number > after,
            )
            .order_by(Template.number)
            .limit(_CHUNK)
        ).all():
            after = rows[-1].number
            read = self._read(cipher, rows)
            yield read.numbers, read.vectors

    def _read(self, cipher: Cipher, rows: Sequence[Any]) -> Readable:
        """Rows (number, id, vector); the log says which cannot be read and are left out."""
        stored = [(row.number, row.id, row.vector) for row in rows]
        read = read_templates(cipher, self._model_id, self._dimension, stored)
        for number, (template_id, why) in read.damaged.items():
            if number not in self.damaged:
                where = {"collection": self._collection, "template": template_id, "why": why}
                log.error("a template cannot be read, and nobody is found by it", extra=where)
        self.damaged |= read.damaged.keys()
        return read

    def _replay(self, session: Session, gallery: SegmentedGallery, newest: int) -> None:
        """Everything from the watermark to `newest` in one step: never found half applied."""
        added, removed = set[int](), set[int]()
        changes = session.execute(
            select(Change.kind, Change.template_number)
            .where(
                Change.collection_number == self._collection,
                Change.seq > gallery.watermark,
                Change.seq <= newest,
                Change.template_number.is_not(None),
            )
            .order_by(Change.seq)
        )
        for kind, number in changes:
            if number is not None:
                (removed if kind == "template_removed" else added).add(number)
        parts = list[Readable]()
        cipher = self._vault.cipher(session, self._owner)
        for chunk in _chunks(sorted(added - removed)):
            rows = session.execute(
                select(Template.number, Template.id, Template.vector).where(
                    Template.number.in_(chunk), Template.model_id == self._model_id
                )
            ).all()
            parts.append(self._read(cipher, rows))
        none = np.empty((0, self._dimension), np.float16)
        gallery.apply(
            newest,
            remove=np.array(sorted(removed), dtype=np.uint64),
            ids=np.concatenate([np.empty(0, np.uint64), *(one.numbers for one in parts)]),
            vectors=np.concatenate([none, *(one.vectors for one in parts)]).astype(np.float32),
        )
        self.damaged -= removed
        if removed:
            self._compact_soon(gallery)

    def _compact_soon(self, gallery: SegmentedGallery) -> None:
        """Rewrite the segments without what was erased, a while from now and not all at once."""
        if not isinstance(gallery, SharedGallery) or self._compaction is not None:
            return

        def compact() -> None:
            self._compaction = None
            try:
                if gallery.dead:  # otherwise another process was quicker
                    gallery.compact()
            except OSError:
                log.exception("erased templates are still in the segments' files")

        wait_s = _COMPACT_AFTER_S * random.uniform(1, 2)  # noqa: S311  # not all workers at once
        self._compaction = threading.Timer(wait_s, compact)
        self._compaction.daemon = True
        self._compaction.start()


def _unusable(gallery: SegmentedGallery, newest: int) -> str | None:
    """Why the database must be read anew instead of the feed; None: it need not."""
    if gallery.damage is not None:
        return gallery.damage
    if gallery.watermark == 0:
        return "there were no segments"
    if gallery.watermark > newest:
        return "the segments are ahead of the database, which must be another or an older one"
    return None


def stored_rows(vectors: Sequence[bytes], dimension: int) -> NDArray[np.float16]:
    """Stored templates as rows (n, dimension), float16."""
    return np.frombuffer(b"".join(vectors), dtype="<f2").reshape(len(vectors), dimension)


_Kind = tuple[int, int]  # number of the collection, and which of its models


def _folder_name(collection: Collection | Scope) -> str:
    return _folder_name_of(collection.number, collection.generation)


def _folder_name_of(number: int, generation: int) -> str:
    return f"{number}-{generation}" if generation else str(number)


def _chunks(numbers: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(numbers), _VARIABLES):
        yield numbers[start : start + _VARIABLES]
