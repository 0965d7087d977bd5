"""The gallery in memory: sealed shelves, a tail, and the order in which they change."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.errors import Conflict, MalformedInput, MusterError, Unavailable
from shared.gallery.api import Candidates
from shared.gallery.coalescing import MOST_PROBES, Gathering
from shared.gallery.codebook import CodeBook
from shared.gallery.compaction import Piece, live_piece, merged, worth_merging
from shared.gallery.id_filters import Filters
from shared.gallery.mutable_segment import FULL, Tail
from shared.gallery.scan import Ask, Kernel, Ranked
from shared.gallery.segment import Shelf, View, full_view, new_shelf
from shared.wire.template import UNIT_TOLERANCE

_log = logging.getLogger(__name__)

_WORK_OF_A_THREAD = 131072
"""Templates times probes below which a second thread costs more than it helps."""
_REBUILD_ROWS = 262144
"""Templates of a shelf that a rebuild makes, at least."""
_MOST_SHELVES = 32


class MissingChanges(MusterError):
    """Changes of the feed would be skipped: read the feed again from the gallery's watermark."""

    code = "missing_changes"


Ids = NDArray[np.uint64]
Rows = NDArray[np.float32]
Batch = tuple[Ids, NDArray[np.float16] | Rows]
"""Ids and their rows, float16 as stored or float32."""


class SegmentedGallery:
    """Templates of one collection with exact search, all in memory.

    Thread-safe. Changes are made one at a time; a search sees all changes that had returned when
    it began, and none by half.
    """

    def __init__(self, book: CodeBook, kernel: Kernel, threads: int) -> None:
        self._book = book
        self._kernel = kernel
        self._threads = threads
        self._change = threading.RLock()  # held while anything below is replaced
        self._seq = 0
        self._sealed: tuple[View, ...] = ()
        self._tail = Tail(book, kernel, threads)
        self._views: tuple[View, ...] = ()  # what searches read: replaced, never changed
        self._damage: str | None = None
        self._servable = True
        self._gathering = Gathering(lambda ask: self._rank(self._current(), ask))
        self._filters = Filters(kernel)
        self._upkeep = threading.Lock()  # one sealing or merging at a time in this process
        self._helpers: dict[str, threading.Thread] = {}
        self._closing = threading.Event()

    def watch_scans(self, watch: Callable[[int, float], None]) -> None:
        """Have somebody told of each scan: the searches that it answered, and its seconds."""
        self._gathering.watch = watch

    # -- what is there -----------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(view.live for view in self._views)

    @property
    def watermark(self) -> int:
        """All changes of the feed up to this number are contained."""
        return self._seq

    def census(self) -> tuple[int, Ids]:
        """The watermark, and the ids (n,) of all live templates at that moment, ascending."""
        with self._change:
            seq, views = self._seq, (*self._sealed, self._tail.view)
        ids = [view.shelf.ids[view.live_places()] for view in views]
        return seq, np.sort(np.concatenate(ids))

    def count_at(self, seq: int) -> int | None:
        """The number of live templates, if the watermark is `seq`; None: it is another."""
        with self._change:
            return len(self) if self._seq == seq else None

    @property
    def damage(self) -> str | None:
        """Why what was stored cannot be used, in words: `rebuild` it. None: sound."""
        return self._damage

    @property
    def dead(self) -> int:
        """Removed templates that sealed shelves still hold."""
        return sum(view.shelf.count - view.live for view in self._sealed)

    @property
    def kernel_name(self) -> str:
        return self._kernel.name

    @property
    def scans(self) -> int:
        """Scans so far; concurrent searches share them."""
        return self._gathering.scans

    # -- search ------------------------------------------------------------------------------

    def search(
        self,
        probes: Rows,
        limit: int,
        *,
        threshold: float = -1.0,
        among: Ids | None = None,
    ) -> list[Candidates]:
        """One candidate list for each probe row (n, d), exactly that of a brute-force search.

        At most `limit` long, similarities from `threshold` up, ids in `among` where it is given.
        Raises MalformedInput for probes that do not fit or are not finite, Unavailable when the
        stored segments turned out to be damaged.
        """
        rows = self._checked_probes(probes)
        if limit < 0 or np.isnan(threshold):
            raise MalformedInput("a search has a limit of at least 0 and a threshold")
        limit = min(limit, len(self))
        if not limit or not rows.shape[0]:
            self._current()
            return [_candidates(_NOTHING) for _ in range(rows.shape[0])]
        ask = Ask(
            rows,
            np.full(rows.shape[0], limit, dtype=np.int64),
            np.full(rows.shape[0], max(float(threshold), -2e6), dtype=np.float64),
        )
        if among is None:
            return [_candidates(ranked) for ranked in self._gathering.search(ask)]
        views = self._filters.restricted(self._current(), among)
        return [_candidates(ranked) for ranked in self._rank(views, ask)]

    def _current(self) -> tuple[View, ...]:
        if not self._servable:
            raise Unavailable(f"the gallery must be rebuilt from the database: {self._damage}")
        return self._views

    def _rank(self, views: Sequence[View], ask: Ask) -> list[Ranked]:
        useful = [view for view in views if view.live]
        work = sum(view.live for view in useful) * ask.limits.shape[0]
        threads = self._threads if work > _WORK_OF_A_THREAD else 1
        ranked: list[Ranked] = []
        for start in range(0, ask.limits.shape[0], MOST_PROBES):  # bounds the kernel's memory
            part = slice(start, start + MOST_PROBES)
            some = Ask(ask.probes[part], ask.limits[part], ask.thresholds[part])
            ranked += self._kernel.search(self._book, useful, some, threads)
        return ranked

    def _checked_probes(self, probes: Rows) -> Rows:
        rows = np.ascontiguousarray(probes, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self._book.dimension:
            raise MalformedInput(
                f"probes are rows of {self._book.dimension} values, not of shape {probes.shape}"
            )
        if not (np.abs(rows) <= 1e3).all():
            raise MalformedInput("probes are finite rows of unit length")
        return rows

    # -- changes -----------------------------------------------------------------------------

    def add(self, ids: Ids, vectors: Rows) -> None:
        """Add unit rows (n, d) under new ids (n,): stored as float16, searchable on return.

        Raises MalformedInput for rows that do not fit or are not of unit length, Conflict for an
        id that is there already; then nothing is added.
        """
        names, rows = self._checked(ids, vectors)
        with self._change:
            if self._holds(names).any():
                raise Conflict("an id is already in the gallery")
            self._append(names, rows, self._seq + 1)
            self._publish(self._seq + 1)

    def remove(self, ids: Ids) -> int:
        """Remove these ids; unknown ones are ignored. Answers how many were there."""
        with self._change:
            count = self._discard(np.unique(np.asarray(ids, dtype=np.uint64)), self._seq + 1)
            self._publish(self._seq + 1)
            return count

    def apply(
        self,
        since: int,
        to: int,
        *,
        remove: Ids | None = None,
        ids: Ids | None = None,
        vectors: Rows | None = None,
    ) -> bool:
        """Apply all changes of the feed after `since` up to `to`: removals, then additions.

        An id that is there already is replaced. Returns False, and does nothing, when change `to`
        is contained already. Raises MissingChanges when the gallery does not contain `since`,
        MalformedInput as `add` does; then nothing is changed.
        """
        gone = [] if remove is None else [np.asarray(remove, dtype=np.uint64)]
        added = None if ids is None or vectors is None else self._checked(ids, vectors)
        with self._change:
            if to <= self._seq:
                return False
            if self._seq < since:
                raise MissingChanges(
                    f"the gallery contains the changes up to {self._seq}, not up to {since}"
                )
            if added is not None:
                gone.append(added[0])
            if gone:
                self._discard(np.unique(np.concatenate(gone)), to)
            if added is not None:
                self._append(*added, to)
            self._publish(to)
            return True

    def rebuild(self, batches: Iterable[Batch], seq: int) -> bool:
        """Replace everything by these templates: the database's content as of change `seq`.

        Searches see the old content until the new is complete. Returns whether it was done.
        Raises as `add` does.
        """
        made = self._shelves(batches, lambda pieces: self._in_memory(pieces, self._threads))
        views = [full_view(shelf) for shelf in made]
        with self._change:
            self._sealed = tuple(brought_by(view, seq) for view in views)
            self._tail = Tail(self._book, self._kernel, self._threads)
            self._publish(seq)
        return True

    def close(self) -> None:
        """Stop helpers. The gallery is not used any more after this."""
        self._closing.set()
        for helper in list(self._helpers.values()):
            helper.join()

    def _checked(self, ids: Ids, vectors: Rows) -> tuple[Ids, Rows]:
        names = np.ascontiguousarray(ids, dtype=np.uint64)
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        if names.ndim != 1 or rows.shape != (names.shape[0], self._book.dimension):
            raise MalformedInput(
                f"ids of shape {names.shape} and rows of shape {rows.shape} do not fit a gallery "
                f"of dimension {self._book.dimension}"
            )
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        if not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():
            raise MalformedInput("templates are finite rows of unit length: normalise them")
        ordered = np.sort(names)
        if (ordered[1:] == ordered[:-1]).any():
            raise Conflict("an id comes twice in one addition")
        return names, rows

    def _holds(self, ids: Ids) -> NDArray[np.bool_]:
        held: NDArray[np.bool_] = self._tail.places(ids) >= 0
        for view in self._sealed:
            held |= self._kernel.find(view, ids) >= 0
        return held

    def _append(self, ids: Ids, vectors: Rows, seq: int) -> None:
        count = ids.shape[0]
        if count >= FULL:
            shelf = new_shelf(self._book, count)
            shelf.ids[:count] = ids
            self._kernel.encode(self._book, shelf, 0, vectors, count, self._threads)
            order = np.argsort(ids).astype(np.uint32)
            view = full_view(replace(shelf, count=count, order=order))
            self._sealed = (*self._sealed, brought_by(view, seq))
            return
        while ids.shape[0]:
            room = self._tail.room
            self._add_to_tail(ids[:room], vectors[:room], None, seq)
            ids, vectors = ids[room:], vectors[room:]

    def _add_to_tail(
        self,
        ids: Ids,
        vectors: Rows | None,
        rows: NDArray[np.float16] | None,
        seqs: int | NDArray[np.uint64],
    ) -> None:
        """Rows that fit into the tail; one that is full then becomes a shelf."""
        self._tail.add(ids, vectors, rows, seqs)
        if not self._tail.room:
            self._sealed = (*self._sealed, self._tail.closed())
            self._tail = Tail(self._book, self._kernel, self._threads, capacity=FULL)

    def _discard(self, ids: Ids, seq: int) -> int:
        count = self._tail.remove(ids)
        views = []
        for view in self._sealed:
            views.append(self._less(view, ids))
            count += view.live - views[-1].live
        self._sealed = tuple(views)
        return count

    def _less(self, view: View, ids: Ids) -> View:
        places = self._kernel.find(view, ids)
        places = places[places >= 0]
        return view.without(places) if places.shape[0] else view

    def _publish(self, seq: int) -> None:
        self._views = (*self._sealed, self._tail.view)
        self._seq = seq  # last: whoever reads it without the lock then searches these views
        if self._upkeep_due():
            self._start_helper(self._keep_up)

    # -- upkeep, while searches go on ---------------------------------------------------------

    def _upkeep_due(self) -> bool:
        count = sum(view.shelf.count for view in self._sealed)
        dead = count - sum(view.live for view in self._sealed)
        return len(self._sealed) > _MOST_SHELVES or 4 * dead > count + FULL

    def _keep_up(self) -> None:
        """Merge small and half-empty shelves into one."""
        with self._upkeep:
            chosen = worth_merging(self._sealed, FULL)
            pieces = [live_piece(view) for view in chosen if view.live]
            made = [full_view(self._in_memory(pieces, 1))] if pieces else []
            with self._change:
                self._replace(chosen, made)

    def _replace(self, old: Sequence[View], new: Sequence[View]) -> None:
        """Put new shelves in the place of old ones, less what was removed since."""
        before = {id(view.shelf): view for view in old}
        kept = []
        for view in self._sealed:
            if (then := before.get(id(view.shelf))) is None:
                kept.append(view)
                continue
            gone = view.shelf.ids[View(view.shelf, then.alive & ~view.alive, 0).live_places()]
            if gone.size:
                new = [self._less(each, gone) for each in new]
        self._sealed = (*kept, *new)
        self._views = (*self._sealed, self._tail.view)

    def _start_helper(self, task: Callable[[], None]) -> None:
        """Run the task in a thread of its own, unless it is running already."""
        name = task.__name__
        with self._change:
            running = self._helpers.get(name)
            if self._closing.is_set() or (running is not None and running.is_alive()):
                return

            def guarded() -> None:
                try:
                    task()
                except (OSError, MusterError):
                    # Nothing is lost: what could not be sealed stays in memory.
                    _log.exception("the gallery's upkeep failed")

            self._helpers[name] = threading.Thread(target=guarded, name=name, daemon=True)
            self._helpers[name].start()

    def _in_memory(self, pieces: Sequence[Piece], threads: int) -> Shelf:
        return merged(
            pieces, lambda count: new_shelf(self._book, count), self._book, self._kernel, threads
        )

    def _shelves(
        self, batches: Iterable[Batch], make: Callable[[Sequence[Piece]], Shelf]
    ) -> list[Shelf]:
        """Shelves of at least `_REBUILD_ROWS` templates (but for the last) from checked batches."""
        shelves, pieces = [], []
        for ids, rows in batches:
            names, _ = self._checked(ids, rows.astype(np.float32, copy=False))
            stored = np.ascontiguousarray(rows, dtype=np.float16)
            pieces.append(Piece(names, stored, np.arange(names.shape[0])))
            if sum(piece.ids.shape[0] for piece in pieces) >= _REBUILD_ROWS:
                shelves.append(make(pieces))
                pieces = []
        if any(piece.ids.shape[0] for piece in pieces):
            shelves.append(make(pieces))
        return shelves


_NOTHING: Ranked = (np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.float64))


def _candidates(ranked: Ranked) -> Candidates:
    ids, similarities = ranked
    return Candidates(ids, similarities.astype(np.float32))


def brought_by(view: View, seq: int) -> View:
    """The view of a private shelf all of which one change brought."""
    seqs = np.broadcast_to(np.uint64(seq), (view.shelf.count,))
    return View(replace(view.shelf, seqs=seqs), view.alive, view.live)
