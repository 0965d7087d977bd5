"""A gallery in memory: sealed segments and one mutable segment."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.errors import Conflict, MalformedInput, MusterError, Unavailable
from shared.gallery.candidates import Candidates
from shared.gallery.coalescing import MAX_PROBES, SearchCoalescer
from shared.gallery.codebook import CodeBook
from shared.gallery.compaction import (
    MAX_ROWS,
    MergeSource,
    in_parts,
    live_rows,
    merge,
    select_for_merge,
)
from shared.gallery.id_filters import IdFilters
from shared.gallery.mutable_segment import FULL, MutableSegment
from shared.gallery.scan import Kernel, Query, Ranked
from shared.gallery.segment import Segment, SegmentView, content_of, full_view, new_segment
from shared.wire.template import UNIT_TOLERANCE
from shared.wire.template_hash import Hashes

_log = logging.getLogger(__name__)

_MIN_PARALLEL = 65536
"""Number of templates from which a scan uses more than one thread. With fewer, each thread looks
for the first good candidates by itself, which costs up to a quarter more processor time."""
_MAX_SMALL = 32
"""Segments that could be merged: with more of them, they are."""


class MissingChanges(MusterError):
    """Changes of the feed are missing: read the feed from the gallery's watermark."""

    code = "missing_changes"


Ids = NDArray[np.uint64]
Rows = NDArray[np.float32]
Batch = tuple[Ids, NDArray[np.float16] | Rows]
"""Ids and their rows, float16 as stored or float32."""


class MemoryIndex:
    """Templates of one collection with exact search, all in memory.

    Thread-safe. Changes are made one at a time. A search sees every change that returned before
    the search began, and sees each change completely or not at all.
    """

    def __init__(self, book: CodeBook, kernel: Kernel, threads: int) -> None:
        self._book = book
        self._kernel = kernel
        self._threads = threads
        self._change = threading.RLock()  # held while anything below is replaced
        self._reached = ("", 0)  # epoch and number of the last change
        self._sealed: tuple[SegmentView, ...] = ()
        self._mutable = MutableSegment(book, kernel, threads)
        self._views: tuple[SegmentView, ...] = ()  # what searches read: replaced, never changed
        self._damage: str | None = None
        self._servable = True
        self._coalescer = SearchCoalescer(lambda query: self._rank(self._current(), query))
        self._filters = IdFilters(kernel)
        self._maintenance = threading.Lock()  # one sealing or merging at a time in this process
        self._background: dict[str, threading.Thread] = {}
        self._closing = threading.Event()

    def watch_scans(self, watch: Callable[[int, float], None]) -> None:
        """Sets a function to call after each scan with its number of searches and its seconds."""
        self._coalescer.watch = watch

    # -- state -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(view.live for view in self._views)

    @property
    def watermark(self) -> int:
        """The number of the last change that the gallery contains, with all before it."""
        return self._reached[1]

    @property
    def reached(self) -> tuple[str, int]:
        """The epoch of the feed and the watermark. Numbers of two epochs are not compared."""
        return self._reached

    def content(self) -> tuple[tuple[str, int], Ids, Hashes]:
        """Returns the epoch and the watermark, and `content_of` all templates at it."""
        with self._change:
            reached, views = self._reached, (*self._sealed, self._mutable.view)
        return (reached, *content_of(views))

    @property
    def damage(self) -> str | None:
        """Why the stored files cannot be used, in words; None if they can. `rebuild` repairs it."""
        return self._damage

    @property
    def dead(self) -> int:
        """Removed templates that sealed segments still hold."""
        return sum(view.segment.count - view.live for view in self._sealed)

    @property
    def kernel_name(self) -> str:
        return self._kernel.name

    @property
    def scans(self) -> int:
        """Number of scans so far; concurrent searches share scans."""
        return self._coalescer.scans

    # -- search ------------------------------------------------------------------------------

    def search(
        self,
        probes: Rows,
        limit: int,
        *,
        threshold: float = -1.0,
        among: Ids | None = None,
    ) -> list[Candidates]:
        """Returns for each probe row (n, d) the candidate list of a brute-force search.

        A list has at most `limit` candidates with a similarity of at least `threshold`; with
        `among`, only candidates with these ids. Raises MalformedInput for probes of a wrong shape
        or with values that are not finite, Unavailable if the stored segments are damaged.
        """
        rows = self._checked_probes(probes)
        if limit < 0 or np.isnan(threshold):
            raise MalformedInput("a search has a limit of at least 0 and a threshold")
        limit = min(limit, len(self))
        if not limit or not rows.shape[0]:
            self._current()
            return [_candidates(_NOTHING) for _ in range(rows.shape[0])]
        query = Query(
            rows,
            np.full(rows.shape[0], limit, dtype=np.int64),
            np.full(rows.shape[0], max(float(threshold), -2e6), dtype=np.float64),
        )
        if among is None:
            return [_candidates(ranked) for ranked in self._coalescer.search(query)]
        views = self._filters.filtered(self._current(), among)
        return [_candidates(ranked) for ranked in self._rank(views, query)]

    def _current(self) -> tuple[SegmentView, ...]:
        if not self._servable:
            raise Unavailable(f"the gallery must be rebuilt from the database: {self._damage}")
        return self._views

    def _rank(self, views: Sequence[SegmentView], query: Query) -> list[Ranked]:
        useful = [view for view in views if view.live]
        parallel = sum(view.live for view in useful) >= _MIN_PARALLEL
        threads = self._threads if parallel else 1
        ranked: list[Ranked] = []
        for start in range(0, query.limits.shape[0], MAX_PROBES):  # bounds the kernel's memory
            part = slice(start, start + MAX_PROBES)
            some = Query(query.probes[part], query.limits[part], query.thresholds[part])
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
        """Adds unit rows (n, d) with new ids (n,). Stored as float16, searchable on return.

        Raises MalformedInput for rows of a wrong shape or length, Conflict for an id that is in the
        gallery already. Then nothing is added.
        """
        names, rows = self._checked(ids, vectors)
        with self._change:
            if self._contains(names).any():
                raise Conflict("an id is already in the gallery")
            self._append(names, rows, self.watermark + 1)
            self._publish(self.watermark + 1)

    def remove(self, ids: Ids) -> int:
        """Removes ids and returns how many were present. Unknown ids are ignored."""
        with self._change:
            seq = self.watermark + 1
            count = self._discard(np.unique(np.asarray(ids, dtype=np.uint64)), seq)
            self._publish(seq)
            return count

    def apply(
        self,
        since: int,
        to: int,
        *,
        remove: Ids | None = None,
        ids: Ids | None = None,
        vectors: Rows | None = None,
        epoch: str = "",
    ) -> bool:
        """Applies all changes of the feed after `since` up to `to`: removals, then additions.

        An id that is present is replaced. `epoch` is that of the feed; a gallery of an earlier one
        must be at `since`, and is of this one then. Returns False and does nothing if the gallery
        contains change `to` already. Raises MissingChanges if the gallery does not contain `since`,
        MalformedInput as `add` does. Then nothing is changed.
        """
        removed = [] if remove is None else [np.asarray(remove, dtype=np.uint64)]
        added = None if ids is None or vectors is None else self._checked(ids, vectors)
        with self._change:
            present, seq = self._reached
            if epoch == present and to <= seq:
                return False
            if seq < since or (epoch != present and seq != since):
                raise MissingChanges(
                    f"the gallery contains the changes up to {seq}, not up to {since}"
                )
            if added is not None:
                removed.append(added[0])
            if removed:
                self._discard(np.unique(np.concatenate(removed)), to)
            if added is not None:
                self._append(*added, to)
            self._publish(to, epoch)
            return True

    def mend(self, reached: tuple[str, int], remove: Ids, ids: Ids, vectors: Rows) -> bool:
        """Removes ids and adds others without a change of the feed, for the state at a position.

        Returns False and does nothing if the gallery is not at that epoch and watermark. Raises
        MalformedInput as `add` does.
        """
        added, seq = self._checked(ids, vectors), reached[1]
        with self._change:
            if self._reached != reached:
                return False
            self._discard(np.unique(np.concatenate([remove, added[0]])), seq)
            self._append(*added, seq)
            self._publish(seq)
            return True

    def refresh(self, epoch: str = "") -> bool:
        """Uses what another process has written; returns whether there was anything new."""
        return False

    def rebuild(self, batches: Iterable[Batch], seq: int, epoch: str = "") -> bool:
        """Replaces all content by these templates: the database's content at change `seq`.

        Searches see the old content until the new is complete. Returns whether the content was
        replaced. Raises the errors of `add`.
        """
        made = self._segments_from(batches, lambda sources: self._in_memory(sources, self._threads))
        views = [full_view(segment) for segment in made]
        with self._change:
            self._sealed = tuple(with_change(view, seq) for view in views)
            self._mutable = MutableSegment(self._book, self._kernel, self._threads)
            self._publish(seq, epoch)
        return True

    @contextmanager
    def leading(self) -> Iterator[bool]:
        """Yields whether this process is to apply many changes for all that share the files."""
        yield True

    def bound_private(self, limit: int) -> None:
        """Writes the templates of this process into a shared segment if there are over `limit`."""

    def close(self) -> None:
        """Stops background threads. The gallery cannot be used after this."""
        self._closing.set()
        for thread in list(self._background.values()):
            thread.join()

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

    def _contains(self, ids: Ids) -> NDArray[np.bool_]:
        held: NDArray[np.bool_] = self._mutable.places(ids) >= 0
        for view in self._sealed:
            held |= self._kernel.find(view, ids) >= 0
        return held

    def _append(self, ids: Ids, vectors: Rows, seq: int) -> None:
        count = ids.shape[0]
        if count >= FULL:
            segment = new_segment(self._book, count)
            segment.ids[:count] = ids
            self._kernel.encode(self._book, segment, 0, vectors, count, self._threads)
            segment.hash_rows(0, count)
            order = np.argsort(ids).astype(np.uint32)
            view = full_view(replace(segment, count=count, order=order))
            self._sealed = (*self._sealed, with_change(view, seq))
            return
        while ids.shape[0]:
            room = self._mutable.room
            self._add_to_mutable(ids[:room], vectors[:room], None, seq)
            ids, vectors = ids[room:], vectors[room:]

    def _add_to_mutable(
        self,
        ids: Ids,
        vectors: Rows | None,
        rows: NDArray[np.float16] | None,
        seqs: int | NDArray[np.uint64],
    ) -> None:
        """Adds rows that fit into the mutable segment, and seals it if it is full."""
        self._mutable.add(ids, vectors, rows, seqs)
        if not self._mutable.room:
            self._sealed = (*self._sealed, self._mutable.sealed())
            self._mutable = MutableSegment(self._book, self._kernel, self._threads, capacity=FULL)

    def _discard(self, ids: Ids, seq: int) -> int:
        count = self._mutable.remove(ids)
        views = []
        for view in self._sealed:
            views.append(self._without(view, ids))
            count += view.live - views[-1].live
        self._sealed = tuple(views)
        return count

    def _without(self, view: SegmentView, ids: Ids) -> SegmentView:
        places = self._kernel.find(view, ids)
        places = places[places >= 0]
        return view.without(places) if places.shape[0] else view

    def _publish(self, seq: int, epoch: str | None = None) -> None:
        """Lets searches see the present content, which is that at `seq`; None: of this epoch."""
        self._views = (*self._sealed, self._mutable.view)
        # Last: a reader without the lock then searches these views.
        self._reached = (self._reached[0] if epoch is None else epoch, seq)
        if self._maintenance_due():
            self._start_background(self._maintain)

    # -- maintenance, while searches go on -----------------------------------------------------

    def _maintenance_due(self) -> bool:
        count = sum(view.segment.count for view in self._sealed)
        dead = count - sum(view.live for view in self._sealed)
        small = sum(2 * view.live <= MAX_ROWS for view in self._sealed)
        return small > _MAX_SMALL or 4 * dead > count + FULL

    def _maintain(self) -> None:
        """Merges small segments, and segments with many dead templates, into one."""
        with self._maintenance:
            chosen = select_for_merge(self._sealed, FULL)
            sources = [live_rows(view) for view in chosen if view.live]
            made = [full_view(self._in_memory(part, 1)) for part in in_parts(sources)]
            with self._change:
                self._replace(chosen, made)

    def _replace(self, old: Sequence[SegmentView], new: Sequence[SegmentView]) -> None:
        """Replaces old segments by new ones, without templates that were removed since."""
        before = {id(view.segment): view for view in old}
        kept = []
        for view in self._sealed:
            if (then := before.get(id(view.segment))) is None:
                kept.append(view)
                continue
            gone = view.segment.ids[
                SegmentView(view.segment, then.alive & ~view.alive, 0).live_places()
            ]
            if gone.size:
                new = [self._without(each, gone) for each in new]
        self._sealed = (*kept, *new)
        self._views = (*self._sealed, self._mutable.view)

    def _start_background(self, task: Callable[[], None]) -> None:
        """Runs the task in a thread of its own, unless it is running already."""
        name = task.__name__
        with self._change:
            running = self._background.get(name)
            if self._closing.is_set() or (running is not None and running.is_alive()):
                return

            def guarded() -> None:
                try:
                    task()
                except (OSError, MusterError):
                    # No data is lost: what could not be sealed stays in memory.
                    _log.exception("Maintenance of the gallery failed")

            self._background[name] = threading.Thread(target=guarded, name=name, daemon=True)
            self._background[name].start()

    def _in_memory(self, sources: Sequence[MergeSource], threads: int) -> Segment:
        return merge(
            sources, lambda count: new_segment(self._book, count), self._book, self._kernel, threads
        )

    def _segments_from(
        self, batches: Iterable[Batch], make: Callable[[Sequence[MergeSource]], Segment]
    ) -> list[Segment]:
        """Makes segments of at least `MAX_ROWS` templates (the last: any number)."""
        segments, sources = [], []
        for ids, rows in batches:
            names, _ = self._checked(ids, rows.astype(np.float32, copy=False))
            stored = np.ascontiguousarray(rows, dtype=np.float16)
            sources.append(MergeSource(names, stored, np.arange(names.shape[0])))
            if sum(source.ids.shape[0] for source in sources) >= MAX_ROWS:
                segments.append(make(sources))
                sources = []
        if any(source.ids.shape[0] for source in sources):
            segments.append(make(sources))
        return segments


_NOTHING: Ranked = (np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.float64))


def _candidates(ranked: Ranked) -> Candidates:
    ids, similarities = ranked
    return Candidates(ids, similarities.astype(np.float32))


def with_change(view: SegmentView, seq: int) -> SegmentView:
    """Returns a view of a private segment whose templates all came with change `seq`."""
    seqs = np.broadcast_to(np.uint64(seq), (view.segment.count,))
    return SegmentView(replace(view.segment, seqs=seqs), view.alive, view.live)
