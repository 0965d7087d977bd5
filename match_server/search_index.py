"""The galleries of one process, each kept up to date from the change feed.

Durable first, searchable second: a write is finished when it is in the database, and every
process applies what is new there before it searches. So all workers answer alike, a client that
was told of a write finds it, and an erased person is not found again by any of them.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.database import Database
from match_server.gallery import Gallery, open_gallery
from match_server.services.changes import position
from match_server.tables import Change, Collection, Template
from shared.errors import Unavailable

log = logging.getLogger(__name__)

OpenGallery = Callable[[Path | None, int], Gallery]

_CHUNK = 8192  # rows read at a time: 8 MiB of float16 at 512 dimensions
_VARIABLES = 500  # numbers in one IN (...), below every database's limit
_MIN_SEQ_WAIT_S = 2.0
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Reached:
    """A gallery that holds every write up to `seq` (and perhaps later ones)."""

    gallery: Gallery
    seq: int


class SearchIndex:
    """All galleries of this process, opened when they are first searched. Thread-safe."""

    def __init__(self, database: Database, open_gallery: OpenGallery = open_gallery) -> None:
        self._database = database
        self._open = open_gallery
        self._lock = threading.Lock()  # guards the dictionary only
        self._followers: dict[int, _Follower] = {}
        self._seen = 0

    def caught_up(self, collection: Collection, min_seq: int | None = None) -> Reached:
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
            self.caught_up(collection)

    def _follower(self, collection: Collection) -> "_Follower":
        with self._lock:
            follower = self._followers.get(collection.number)
            if follower is None:
                follower = _Follower(self._database, collection, self._open)
                self._followers[collection.number] = follower
            return follower

    def _forget_erased(self, seq: int) -> None:
        """Let go of the galleries of collections that are gone."""
        with self._database.read() as session:
            existing = set(session.scalars(select(Collection.number)))
        with self._lock:
            for number in self._followers.keys() - existing:
                del self._followers[number]
            self._seen = seq


class _Follower:
    """One collection's gallery and the number in the feed up to which it holds everything.

    It starts at the gallery's watermark (0: empty) with the templates themselves instead of the
    feed's history; a gallery that keeps segments on disk will start at theirs.
    """

    def __init__(self, database: Database, collection: Collection, open_gallery: OpenGallery):
        self._database = database
        self._collection = collection.number
        self._dimension = collection.dimension
        self._open = open_gallery
        self._gallery = open_gallery(None, collection.dimension)
        self._lock = threading.Lock()
        self._seq: int | None = None  # None: nothing loaded yet

    def catch_up(self) -> Reached:
        """Apply what was committed before this call."""
        with self._database.read() as session:
            if self._seq == position(session):
                return Reached(self._gallery, self._seq)
        with self._lock, self._database.read() as session:
            newest = position(session)
            try:
                if self._seq is None:
                    self._gallery = self._loaded(session)
                elif self._seq < newest:
                    self._replay(session, self._seq)
            except BaseException:
                self._seq = None  # half applied: begin anew next time
                raise
            self._seq = newest
            return Reached(self._gallery, newest)

    def _loaded(self, session: Session) -> Gallery:
        started_s = time.monotonic()
        gallery = self._open(None, self._dimension)
        after = 0
        while rows := session.execute(
            select(Template.number, Template.vector)
            .where(Template.collection_number == self._collection, Template.number > after)
            .order_by(Template.number)
            .limit(_CHUNK)
        ).all():
            self._add(gallery, [row.number for row in rows], [row.vector for row in rows])
            after = rows[-1].number
        log.info(
            "gallery loaded",
            extra={"templates": len(gallery), "took_s": round(time.monotonic() - started_s, 3)},
        )
        return gallery

    def _replay(self, session: Session, since: int) -> None:
        added, removed = set[int](), set[int]()
        changes = session.execute(
            select(Change.kind, Change.template_number)
            .where(
                Change.collection_number == self._collection,
                Change.seq > since,
                Change.template_number.is_not(None),
            )
            .order_by(Change.seq)
        )
        for kind, number in changes:
            if number is not None:
                (removed if kind == "template_removed" else added).add(number)
        if removed:
            self._gallery.remove(np.array(sorted(removed), dtype=np.uint64))
        for numbers in _chunks(sorted(added - removed)):
            rows = session.execute(
                select(Template.number, Template.vector).where(Template.number.in_(numbers))
            ).all()
            if rows:
                numbers, vectors = [row.number for row in rows], [row.vector for row in rows]
                self._add(self._gallery, numbers, vectors)

    def _add(self, gallery: Gallery, numbers: Sequence[int], vectors: Sequence[bytes]) -> None:
        rows = stored_rows(vectors, self._dimension)
        gallery.add(np.array(numbers, dtype=np.uint64), rows)


def stored_rows(vectors: Sequence[bytes], dimension: int) -> NDArray[np.float32]:
    """Stored templates as rows (n, dimension), float32."""
    packed = np.frombuffer(b"".join(vectors), dtype="<f2")
    return packed.reshape(len(vectors), dimension).astype(np.float32)


def _chunks(numbers: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(numbers), _VARIABLES):
        yield numbers[start : start + _VARIABLES]
