"""The gallery with segments on disk, shared by all processes that open the directory.

Each process applies the same feed of changes, so all hold the same content: the segments, and what
came after them in a private tail. Whoever gets the lock writes its tail into a segment and replaces
the manifest; the others notice, map what is new, and drop the part of their tails that it covers.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from shared.gallery.codebook import CodeBook
from shared.gallery.compaction import Piece, live_piece, merged, worth_merging
from shared.gallery.manifest import Directory, Generation
from shared.gallery.memory_index import Batch, Ids, Rows, SegmentedGallery, brought_by
from shared.gallery.mutable_segment import Tail
from shared.gallery.scan import Kernel
from shared.gallery.segment import Shelf, View, full_view
from shared.gallery.segment_file import DamagedSegments

_log = logging.getLogger(__name__)

_PAUSE_S = 5.0  # after a write that failed, before the next
_MOST_REMOVALS = 65536
"""Removed ids that are remembered before the next seal takes them in."""


class SharedGallery(SegmentedGallery):
    """A gallery whose sealed shelves are files.

    A new instance contains what the manifest names: apply every change after `watermark`. Where
    `damage` says that the files cannot be used, `rebuild` from the database.
    """

    def __init__(
        self, directory: Directory, book: CodeBook, kernel: Kernel, threads: int, *, verify: bool
    ) -> None:
        super().__init__(book, kernel, threads)
        self._directory = directory
        self._stamp: tuple[int, int, int] | None = None  # of the manifest that is mapped
        self._sealed_seq = 0  # what the segments contain
        self._removals: list[tuple[int, Ids]] = []  # after that
        self._bad: set[str] = set()  # segments that turned out to be damaged
        self._write_again_s = 0.0  # monotonic; after a write that failed
        self.refresh()
        if verify and self._sealed:
            self._start_helper(self._verify_for_all)

    def refresh(self) -> bool:
        """Take over what another process has sealed meanwhile. Answers whether there was any."""
        with self._change:
            stamp = self._directory.stamp()
            if stamp in (None, self._stamp):
                return False
            self._stamp = stamp
            try:
                generation = self._directory.read()
            except (DamagedSegments, OSError) as error:
                self._damaged(f"{error}")
                return False
            if generation is not None:
                self._adopt(generation)
            return generation is not None

    def apply(
        self,
        since: int,
        to: int,
        *,
        remove: Ids | None = None,
        ids: Ids | None = None,
        vectors: Rows | None = None,
    ) -> bool:
        self.refresh()
        return super().apply(since, to, remove=remove, ids=ids, vectors=vectors)

    def seal(self, *, wait: bool = True) -> bool:
        """Write what is private to this process into a segment that all processes share.

        Answers False when nothing was written: nothing to write, a gallery that must be rebuilt
        first, or, without `wait`, another process that is writing.
        """
        with self._upkeep, self._directory.locked(wait) as mine:
            if not mine:
                return False
            self.refresh()
            with self._change:
                seq, views = self._seq, (*self._sealed, self._tail.view)
                removed = bool(self._removals)
            private = [view for view in views if view.shelf.name is None and view.live]
            if self._damage is not None or not (private or removed):
                return False
            shared = [view for view in views if view.shelf.name is not None]
            chosen = worth_merging(shared, sum(view.live for view in private))
            kept = [view for view in shared if view not in chosen]
            return self._write(seq, kept, [*private, *chosen])

    def compact(self) -> None:
        """Rewrite segments that hold removed templates: after this they are gone from the disk."""
        with self._upkeep, self._directory.locked(wait=True):
            self.refresh()
            with self._change:
                seq, views = self._seq, (*self._sealed, self._tail.view)
            clean = [view for view in views if view.shelf.name and view.live == view.shelf.count]
            if self._damage is None:
                self._write(seq, clean, [view for view in views if view not in clean])

    def rebuild(self, batches: Iterable[Batch], seq: int) -> bool:
        """Replace everything by these templates: the database's content as of change `seq`.

        `seq` and the batches are read after this gallery's files were opened, so they are never
        older than those. Where another process has written since, nothing is done but to take
        over what it wrote, and the answer is False: judge again. Searches see the old content
        until the new is complete. Where the disk is full or read-only the content stays in memory,
        until a later `seal` can write it. Raises as `add` does.
        """
        with self._upkeep, self._locked_if_possible():
            if self._directory.stamp() != self._stamp:
                self.refresh()
                return False
            shelves = self._shelves(batches, self._segment_if_possible)
            written = self._committed(seq, shelves)
            with self._change:
                self._sealed_seq = max(self._seq, seq) + 1  # drop all that is private
                if written:
                    self._stamp = None
                    self.refresh()
                else:
                    self._hold(shelves, seq)
        return True

    def _verify_for_all(self) -> None:
        """In one process: what it finds damaged is rebuilt, and the others take that over."""
        with self._directory.locked(wait=False, what="lock-verify") as mine:
            if mine:
                self.verify()

    def verify(self) -> None:
        """Read all segments and compare their digests; sets `damage` and stops serving if wrong.

        Reads every byte once. After opening, a helper thread of one process does it.
        """
        for view in self._sealed:
            self._intact(view, lambda: not self._closing.is_set())

    def _intact(self, view: View, keep_on: Callable[[], bool] = lambda: True) -> bool:
        if view.shelf.name is None:
            return True
        try:
            self._directory.verify(view, keep_on)
        except DamagedSegments as error:
            with self._change:
                self._bad.add(view.shelf.name)
                self._servable = False
                self._damaged(f"{error}")
            return False
        return True

    def close(self) -> None:
        """Seal the tail, unless another process is at it, and stop helpers."""
        super().close()
        try:
            self.seal(wait=False)
        except OSError as error:
            _log.warning("The tail cannot be sealed, the next start replays it: %s", error)

    @contextmanager
    def _locked_if_possible(self) -> Iterator[None]:
        """Hold the lock of the files, unless they are on a disk that takes nothing."""
        with ExitStack() as held:
            try:
                held.enter_context(self._directory.locked(wait=True))
            except OSError as error:
                self._cannot_write(error)
            yield

    def _segment_if_possible(self, pieces: Sequence[Piece]) -> Shelf:
        try:
            return self._segment(pieces, self._threads)
        except OSError as error:
            self._cannot_write(error)
            return self._in_memory(pieces, self._threads)

    def _committed(self, seq: int, shelves: Sequence[Shelf]) -> bool:
        """Whether the shelves are the content of the files now."""
        if any(shelf.name is None for shelf in shelves):
            return False
        try:
            self._directory.commit(seq, tuple(full_view(shelf) for shelf in shelves))
        except OSError as error:
            self._cannot_write(error)
            return False
        return True

    def _hold(self, shelves: Sequence[Shelf], seq: int) -> None:
        """Serve shelves that the files do not name; a seal will write them."""
        views = [full_view(replace(shelf, name=None)) for shelf in shelves]
        self._sealed = tuple(brought_by(view, seq) for view in views)
        self._tail = Tail(self._book, self._kernel, self._threads)
        self._removals = []
        self._damage, self._servable = None, True
        self._publish(seq)

    def _cannot_write(self, error: OSError) -> None:
        self._write_again_s = time.monotonic() + _PAUSE_S
        _log.warning("Segments cannot be written, their content stays in memory: %s", error)

    def _damaged(self, why: str) -> None:
        self._damage = why
        _log.warning("the gallery must be rebuilt from the database: %s", why)

    def _adopt(self, generation: Generation) -> None:
        """Map a generation; keep of what is private only what came after it."""
        private = [view for view in self._sealed if view.shelf.name is None]
        private.append(self._tail.closed())
        behind = generation.seq < self._sealed_seq  # rebuilt: follow the feed from there again
        self._sealed, self._sealed_seq = generation.views, generation.seq
        self._stamp = generation.stamp
        if not self._bad & {view.shelf.name for view in generation.views}:
            self._damage, self._servable = None, True
        self._tail = Tail(self._book, self._kernel, self._threads)
        later = [] if behind else [(s, ids) for s, ids in self._removals if s > generation.seq]
        self._removals = []
        for seq, ids in later:
            self._discard(ids, seq)
        for view in [] if behind else private:
            self._keep_later(view, generation.seq)
        self._publish(generation.seq if behind else max(self._seq, generation.seq))

    def _keep_later(self, view: View, seq: int) -> None:
        """Bring what changes after `seq` added to a private shelf into the tail."""
        if view.shelf.seqs is None:
            return
        shelf, seqs, places = view.shelf, view.shelf.seqs, view.live_places()
        places = places[seqs[places] > seq]
        while places.shape[0]:
            part, places = places[: self._tail.room], places[self._tail.room :]
            self._add_to_tail(shelf.ids[part], None, shelf.rows[part], seqs[part])

    def _discard(self, ids: Ids, seq: int) -> int:
        if ids.shape[0]:
            self._removals.append((seq, ids))
        return super()._discard(ids, seq)

    def _upkeep_due(self) -> bool:
        if time.monotonic() < self._write_again_s:
            return False
        private = any(view.shelf.name is None for view in self._sealed)
        return private or sum(ids.shape[0] for _, ids in self._removals) > _MOST_REMOVALS

    def _keep_up(self) -> None:
        try:
            self.seal(wait=False)
        except OSError as error:
            self._cannot_write(error)

    def _write(self, seq: int, kept: list[View], pieces: list[View]) -> bool:
        """Commit a generation of these segments and one more; False where a piece is damaged."""
        if not all(self._intact(view) for view in pieces):
            return False  # its digests would be new, and the damage would be hidden
        made = [live_piece(view) for view in pieces if view.live]
        views = [view for view in kept if view.live]
        if made:
            views.append(full_view(self._segment(made, 1)))
        self._directory.commit(seq, tuple(views))
        self.refresh()
        return True

    def _segment(self, pieces: Sequence[Piece], threads: int) -> Shelf:
        return self._directory.write_segment(
            lambda create: merged(pieces, create, self._book, self._kernel, threads)
        )
