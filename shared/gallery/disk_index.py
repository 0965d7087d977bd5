"""A gallery with segments on disk, shared by all processes that open the directory.

Each process applies the same feed of changes, so all have the same content: the segments on disk,
and newer templates in a private mutable segment. The process that gets the lock writes its mutable
segment to disk and replaces the manifest. The others notice that, map the new segment, and drop the
templates that it contains from their mutable segments.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from shared.gallery.codebook import CodeBook
from shared.gallery.compaction import (
    MergeSource,
    in_parts,
    live_rows,
    merge,
    select_for_merge,
)
from shared.gallery.manifest import GalleryDirectory, Generation, Stamp
from shared.gallery.memory_index import Batch, Ids, MemoryIndex, Rows, with_change
from shared.gallery.mutable_segment import MutableSegment
from shared.gallery.scan import Kernel
from shared.gallery.segment import Segment, SegmentView, full_view
from shared.gallery.segment_file import DamagedSegments

_log = logging.getLogger(__name__)

_RUN = uuid.uuid4().hex  # of this process and its forks
_PAUSE_S = 5.0  # after a failed write, before the next
_MAX_REMOVALS = 65536
"""Number of removed ids from which the gallery is sealed."""


class DiskIndex(MemoryIndex):
    """A gallery whose sealed segments are files.

    A new instance contains the segments of the manifest: apply every change after `watermark`. If
    `damage` is set, the files cannot be used: `rebuild` the gallery from the database.
    """

    def __init__(
        self,
        directory: GalleryDirectory,
        book: CodeBook,
        kernel: Kernel,
        threads: int,
    ) -> None:
        super().__init__(book, kernel, threads)
        self._directory = directory
        self._stamp: Stamp | None = None  # of the manifest that was read last
        self._foreign = False  # whether that is of another epoch, and is not mapped
        self._sealed_seq = 0  # the last change that the segments contain
        self._removals: list[tuple[int, Ids]] = []  # after that change
        self._damaged_names: set[str] = set()  # segments whose digests are wrong
        self._write_again_s = 0.0  # monotonic; set by a failed write
        self._leads = False  # applies many changes, and says itself when to write
        self.refresh()

    def refresh(self, epoch: str = "") -> bool:
        """Maps segments that another process has written. Returns whether there were any.

        Segments of another epoch of the feed than the gallery's may lack or hold changes that it
        must not. They count as damage, until the caller knows `epoch` to be the present one.
        """
        with self._change:
            stamp = self._directory.stamp()
            if stamp is None or (stamp == self._stamp and not (self._foreign and epoch)):
                return False
            self._stamp = stamp
            try:
                generation = self._directory.read()
            except (DamagedSegments, OSError) as error:
                self._report_damage(f"{error}")
                return False
            if generation is None:
                return False
            known = {generation.epoch} & {self._reached[0], epoch}
            self._foreign = bool(self._reached[0]) and not known
            if self._foreign:
                self._report_damage("another process has written segments of another epoch")
                return False
            self._adopt(generation)
            damaged = self._directory.damaged() & {view.segment.name for view in self._sealed}
            if damaged:
                self._distrust(damaged, f"another process has found {min(damaged)} changed")
            return True

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
        self.refresh()
        return super().apply(since, to, remove=remove, ids=ids, vectors=vectors, epoch=epoch)

    def mend(self, reached: tuple[str, int], remove: Ids, ids: Ids, vectors: Rows) -> bool:
        """As `MemoryIndex.mend`; the segments of all processes are mended with it.

        It is written at once: segments that were written meanwhile at the same change would be
        taken for newer than what was mended.
        """
        with self._maintenance, self._locked_if_possible():
            self.refresh()
            mended = super().mend(reached, remove, ids, vectors)
            if mended:
                try:
                    self._seal()
                except OSError as error:
                    self._cannot_write(error)
        return mended

    def seal(self, *, wait: bool = True) -> bool:
        """Writes the private templates of this process into a segment that all processes share.

        Returns False if nothing was written: there was nothing to write, the gallery must be
        rebuilt first, or (without `wait`) another process is writing.
        """
        with self._maintenance, self._directory.locked(wait) as locked:
            if not locked:
                return False
            self.refresh()
            return self._seal()

    def _seal(self) -> bool:
        """As `seal`, with both locks."""
        with self._change:
            reached, views = self._reached, (*self._sealed, self._mutable.view)
            removed = bool(self._removals)
        private = [view for view in views if view.segment.name is None and view.live]
        if self._damage is not None or not (private or removed):
            return False
        shared = [view for view in views if view.segment.name is not None]
        chosen = select_for_merge(shared, sum(view.live for view in private))
        kept = [view for view in shared if view not in chosen]
        return self._write(reached, kept, [*private, *chosen])

    def compact(self) -> None:
        """Rewrites segments with removed templates, so that these are no longer on the disk."""
        with self._maintenance, self._directory.locked(wait=True):
            self.refresh()
            with self._change:
                reached, views = self._reached, (*self._sealed, self._mutable.view)
            clean = [
                view for view in views if view.segment.name and view.live == view.segment.count
            ]
            if self._damage is None:
                self._write(reached, clean, [view for view in views if view not in clean])

    def rebuild(self, batches: Iterable[Batch], seq: int, epoch: str = "") -> bool:
        """Replaces all content by these templates: the database's content at change `seq`.

        Read `seq` and the batches after opening the gallery, so that they are not older than its
        files. If another process has written files since, this only maps them and returns False:
        decide again whether to rebuild. Searches see the old content until the new is complete. On
        a full or read-only disk the content stays in memory until a later `seal` can write it.
        Raises the errors of `add`.
        """
        with self._maintenance, self._locked_if_possible():
            if self._directory.stamp() != self._stamp:
                self.refresh()
                return False
            segments = self._segments_from(batches, self._write_merged_if_possible)
            written = self._committed((epoch, seq), segments)
            with self._change:
                self._sealed_seq = max(self.watermark, seq) + 1  # drops private templates
                if written:
                    self._stamp = None
                    self.refresh(epoch)
                else:
                    self._keep_in_memory(segments, (epoch, seq))
        return True

    @contextmanager
    def leading(self) -> Iterator[bool]:
        with ExitStack() as held:
            try:
                leads = held.enter_context(self._directory.locked(wait=False, what="lock-follow"))
            except OSError as error:  # nobody can write files for the others
                self._cannot_write(error)
                leads = True
            self.refresh()
            self._leads = leads
            try:
                yield leads
            finally:
                self._leads = False

    def bound_private(self, limit: int) -> None:
        private = [view for view in self._views if view.segment.name is None]
        if sum(view.live for view in private) > limit and time.monotonic() >= self._write_again_s:
            try:
                self.seal()
            except OSError as error:
                self._cannot_write(error)

    def verify_first(self, keep_on: Callable[[], bool]) -> None:
        """Verifies the segments before the first search, once for the processes of one server.

        They have the module's `_RUN` in common, since they are forks of one process.
        """
        with self._locked_if_possible("lock-verify"):
            if self._sealed and not self._directory.verified_by_another(_RUN):
                self.verify(keep_on)
                if self._damage is None and keep_on():
                    self._directory.note_verified(_RUN)

    def verify_again(self) -> None:
        """Verifies the segments, unless another process does so now."""
        with self._directory.locked(wait=False, what="lock-verify") as locked:
            if locked:
                self.verify()

    def verify(self, keep_on: Callable[[], bool] = lambda: True) -> None:
        """Reads all segments and compares their digests. Wrong ones set `damage` and stop searches.

        They do so in all processes, as soon as these refresh.
        """

        def goes_on() -> bool:
            return keep_on() and not self._closing.is_set()

        with ThreadPoolExecutor(self._threads, "verify") as threads:
            list(threads.map(lambda view: self._intact(view, goes_on), self._sealed))

    def _intact(self, view: SegmentView, keep_on: Callable[[], bool] = lambda: True) -> bool:
        if view.segment.name is None:
            return True
        try:
            self._directory.verify(view, keep_on)
        except DamagedSegments as error:
            with self._change:
                self._distrust({view.segment.name}, f"{error}")
            self._tell_others(view.segment.name)
            return False
        return True

    def _tell_others(self, name: str) -> None:
        """Marks a segment as damaged for all processes; this one knows already."""
        try:
            self._directory.mark_damaged(name)
        except OSError as error:
            self._cannot_write(error)
            return
        with self._change:
            stamp = self._directory.stamp()
            if stamp is not None and self._stamp is not None and stamp[:-1] == self._stamp[:-1]:
                self._stamp = stamp

    def _distrust(self, names: Iterable[str | None], why: str) -> None:
        """Stops searches until these segments are replaced."""
        self._damaged_names.update(name for name in names if name)
        self._servable = False
        self._report_damage(why)

    def close(self) -> None:
        """Seals the mutable segment, unless another process is sealing, and stops threads."""
        super().close()
        try:
            self.seal(wait=False)
        except OSError as error:
            _log.warning(
                "Failed to seal new templates, the next start reads them from the feed: %s", error
            )

    @contextmanager
    def _locked_if_possible(self, what: str = "lock") -> Iterator[None]:
        """Holds a lock of the directory; does without it if the disk is not writable."""
        with ExitStack() as held:
            try:
                held.enter_context(self._directory.locked(wait=True, what=what))
            except OSError as error:
                self._cannot_write(error)
            yield

    def _write_merged_if_possible(self, sources: Sequence[MergeSource]) -> Segment:
        try:
            return self._write_merged(sources, self._threads)
        except OSError as error:
            self._cannot_write(error)
            return self._in_memory(sources, self._threads)

    def _committed(self, reached: tuple[str, int], segments: Sequence[Segment]) -> bool:
        """Commits the segments. Returns whether the files contain them now."""
        if any(segment.name is None for segment in segments):
            return False
        try:
            self._directory.commit(*reached, tuple(full_view(segment) for segment in segments))
        except OSError as error:
            self._cannot_write(error)
            return False
        return True

    def _keep_in_memory(self, segments: Sequence[Segment], reached: tuple[str, int]) -> None:
        """Uses segments that are not in the files. A later `seal` writes them."""
        epoch, seq = reached
        views = [full_view(replace(segment, name=None)) for segment in segments]
        self._sealed = tuple(with_change(view, seq) for view in views)
        self._mutable = MutableSegment(self._book, self._kernel, self._threads)
        self._removals = []
        self._damage, self._servable = None, True
        self._publish(seq, epoch)

    def _cannot_write(self, error: OSError) -> None:
        self._write_again_s = time.monotonic() + _PAUSE_S
        _log.warning("Failed to write segments, their content stays in memory: %s", error)

    def _report_damage(self, why: str) -> None:
        self._damage = why
        _log.warning("The gallery must be rebuilt from the database: %s", why)

    def _adopt(self, generation: Generation) -> None:
        """Uses a generation; keeps only the private templates that are newer."""
        private = [view for view in self._sealed if view.segment.name is None]
        private.append(self._mutable.sealed())
        # Of another epoch, or rebuilt: read the feed from there again.
        behind = generation.epoch != self._reached[0] or generation.seq < self._sealed_seq
        self._sealed, self._sealed_seq = generation.views, generation.seq
        self._stamp = generation.stamp
        if not self._damaged_names & {view.segment.name for view in generation.views}:
            self._damage, self._servable = None, True
        self._mutable = MutableSegment(self._book, self._kernel, self._threads)
        later = [] if behind else [(s, ids) for s, ids in self._removals if s > generation.seq]
        self._removals = []
        for seq, ids in later:
            self._discard(ids, seq)
        for view in [] if behind else private:
            self._keep_later(view, generation.seq)
        seq = generation.seq if behind else max(self.watermark, generation.seq)
        self._publish(seq, generation.epoch)

    def _keep_later(self, view: SegmentView, seq: int) -> None:
        """Adds the templates of a private segment that are newer than `seq` to the mutable one."""
        if view.segment.seqs is None:
            return
        segment, seqs, places = view.segment, view.segment.seqs, view.live_places()
        places = places[seqs[places] > seq]
        while places.shape[0]:
            part, places = places[: self._mutable.room], places[self._mutable.room :]
            self._add_to_mutable(segment.ids[part], None, segment.rows[part], seqs[part])

    def _discard(self, ids: Ids, seq: int) -> int:
        if ids.shape[0]:
            self._removals.append((seq, ids))
        return super()._discard(ids, seq)

    def _maintenance_due(self) -> bool:
        if self._leads or time.monotonic() < self._write_again_s:
            return False
        private = any(view.segment.name is None for view in self._sealed)
        return private or sum(ids.shape[0] for _, ids in self._removals) > _MAX_REMOVALS

    def _maintain(self) -> None:
        try:
            self.seal(wait=False)
        except OSError as error:
            self._cannot_write(error)

    def _write(
        self, reached: tuple[str, int], kept: list[SegmentView], sources: list[SegmentView]
    ) -> bool:
        """Commits `kept` and a merge of `sources`. Returns False if one of these is damaged."""
        if not all(self._intact(view) for view in sources):
            return False  # new digests would hide the damage
        made = [live_rows(view) for view in sources if view.live]
        views = [view for view in kept if view.live]
        views += [full_view(self._write_merged(part, 1)) for part in in_parts(made)]
        self._directory.commit(*reached, tuple(views))
        self.refresh()
        return True

    def _write_merged(self, sources: Sequence[MergeSource], threads: int) -> Segment:
        return self._directory.write_segment(
            lambda create: merge(sources, create, self._book, self._kernel, threads)
        )
