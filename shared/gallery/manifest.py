"""The directory of a gallery: its segment files and their manifest.

The manifest is replaced atomically. It lists the segments, their live templates, and the epoch and
number of the last change of the feed that they contain. Files that it does not list are ignored.
"""

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.files import write_durably
from shared.gallery.codebook import CodeBook
from shared.gallery.segment import Segment, SegmentView, full_view, number_of_bits
from shared.gallery.segment_file import (
    FORMAT,
    DamagedSegments,
    book_digest,
    digest_of,
    map_segment,
    verify_segment,
    write_segment,
)

_MANIFEST = "manifest.json"
_DAMAGED = "damaged"  # names of segments
_VERIFIED = "verified"  # the last run of a server whose process has verified the segments, and it


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[0-9a-f]{32}\.segment$")
    header: str  # digest
    live: int = Field(ge=0)
    alive: str | None = Field(  # file of the bits; None: all alive
        default=None, pattern=r"^[0-9a-f]{32}\.segment\.[0-9a-f]{32}\.alive$"
    )
    alive_digest: str | None = None


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: int
    origin: str
    book: str
    epoch: str = ""  # of the feed; files of older versions have none
    seq: int = Field(ge=0, lt=2**62)
    segments: list[_Entry]


Stamp = tuple[int, int, int, int]
"""Identifies a manifest file, and the list of damaged segments beside it."""


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """The content of one manifest."""

    epoch: str  # of the feed, in which `seq` was reached
    seq: int  # all changes up to this one are contained
    views: tuple[SegmentView, ...]
    stamp: Stamp


class GalleryDirectory:
    """The files of one gallery. Several processes may use the same path."""

    def __init__(self, path: Path, book: CodeBook, origin: str) -> None:
        self._path = path
        self._book = book
        self._origin = origin
        self._mapped: dict[str, tuple[Segment, str]] = {}

    def stamp(self) -> Stamp | None:
        """Returns the identity of the current files; None if there is no manifest."""
        try:
            status = (self._path / _MANIFEST).stat()
        except FileNotFoundError:
            return None
        try:
            marked_ns = (self._path / _DAMAGED).stat().st_mtime_ns
        except FileNotFoundError:
            marked_ns = 0
        return status.st_ino, status.st_mtime_ns, status.st_size, marked_ns

    def read(self) -> Generation | None:
        """Maps the manifest's segments; None if there is no manifest. Raises DamagedSegments."""
        for _ in range(8):  # a manifest may be replaced, and its segments removed, meanwhile
            stamp = self.stamp()
            if stamp is None:
                return None
            try:
                generation = self._read(stamp)
            except (DamagedSegments, OSError):
                if self.stamp() == stamp:
                    raise
                continue
            if self.stamp() == stamp:
                return generation
        raise DamagedSegments(f"{self._path / _MANIFEST} is replaced faster than it can be read")

    def _read(self, stamp: Stamp) -> Generation:
        manifest = self._read_manifest()
        views = []
        for entry in manifest.segments:
            segment = self._map(entry.name, entry.header)
            alive = full_view(segment).alive
            if entry.alive is not None:
                raw = _read_bytes(self._path / entry.alive)
                if digest_of(raw) != entry.alive_digest or len(raw) != alive.nbytes:
                    raise DamagedSegments(f"{self._path / entry.alive} has changed")
                places = alive
                alive = np.frombuffer(raw, dtype=np.uint16)
                if (alive & ~places).any():
                    raise DamagedSegments(f"{self._path / entry.alive} names places that are none")
            if number_of_bits(alive) != entry.live:
                raise DamagedSegments(f"{self._path / entry.name} has not as many templates alive")
            views.append(SegmentView(segment, alive, entry.live))
        self._mapped = {entry.name: self._mapped[entry.name] for entry in manifest.segments}
        return Generation(manifest.epoch, manifest.seq, tuple(views), stamp)

    def _read_manifest(self) -> _Manifest:
        path = self._path / _MANIFEST
        text, _, digest = _read_bytes(path).rpartition(b"\n")
        if digest_of(text) != digest.decode("ascii", "replace"):
            raise DamagedSegments(f"{path} has changed since it was written")
        try:
            manifest = _Manifest.model_validate_json(text)
        except ValidationError as error:
            raise DamagedSegments(f"{path} is not a manifest of format {FORMAT}") from error
        if (manifest.format, manifest.book) != (FORMAT, book_digest(self._book)):
            raise DamagedSegments(f"{path} is of another format, dimension or code book")
        if manifest.origin != self._origin:
            raise DamagedSegments(f"{path} belongs to {manifest.origin!r}, not {self._origin!r}")
        return manifest

    def _map(self, name: str, header: str) -> Segment:
        if (known := self._mapped.get(name)) is not None and known[1] == header:
            return known[0]
        segment = map_segment(self._path / name, self._book, header)
        self._mapped[name] = segment, header
        return segment

    def write_segment(self, fill: Callable[[Callable[[int], Segment]], Segment]) -> Segment:
        """Writes a new, durable file whose content `fill` makes. Returns its segment."""
        name = f"{uuid.uuid4().hex}.segment"
        header = write_segment(self._path / name, self._book, fill)
        return self._map(name, header)

    def commit(self, epoch: str, seq: int, views: tuple[SegmentView, ...]) -> None:
        """Writes a manifest with these views, which contain all changes up to `seq`."""
        entries = []
        for view in views:
            name = view.segment.name or ""
            entry = _Entry(name=name, header=self._mapped[name][1], live=view.live)
            if view.live < view.segment.count:
                raw = view.alive.tobytes()
                entry.alive = f"{name}.{uuid.uuid4().hex}.alive"
                entry.alive_digest = digest_of(raw)
                write_durably(self._path / entry.alive, raw)
            entries.append(entry)
        manifest = _Manifest(
            format=FORMAT,
            origin=self._origin,
            book=book_digest(self._book),
            epoch=epoch,
            seq=seq,
            segments=entries,
        )
        text = manifest.model_dump_json().encode()
        write_durably(self._path / _MANIFEST, text + b"\n" + digest_of(text).encode())
        self._sweep(entries)

    def verify(self, view: SegmentView, keep_on: Callable[[], bool]) -> None:
        """Reads all of a segment and compares its digests. Raises DamagedSegments.

        Stops without a result as soon as `keep_on` returns False.
        """
        name = view.segment.name or ""
        try:
            verify_segment(self._path / name, keep_on)
        except FileNotFoundError as error:
            # A segment is removed only after a manifest that does not name it was written.
            if any(entry.name == name for entry in self._read_manifest().segments):
                raise DamagedSegments(f"{self._path / name} is missing") from error

    def mark_damaged(self, name: str) -> None:
        """Tells all processes that a segment has changed. Raises OSError."""
        with (self._path / _DAMAGED).open("a") as file:
            file.write(f"{name}\n")

    def damaged(self) -> set[str]:
        """Returns the names of the segments that a process has found changed."""
        try:
            return set((self._path / _DAMAGED).read_text().split())
        except FileNotFoundError:
            return set()

    def note_verified(self, run: str) -> None:
        """Notes that this process has verified the segments, for others of its run."""
        with suppress(OSError):  # each verifies them then
            (self._path / _VERIFIED).write_text(f"{run} {os.getpid()}")

    def verified_by_another(self, run: str) -> bool:
        """Returns whether another process of this run has verified the segments."""
        try:
            noted, _, pid = (self._path / _VERIFIED).read_text().partition(" ")
        except OSError:
            return False
        return noted == run and pid != str(os.getpid())

    @contextmanager
    def locked(self, wait: bool, what: str = "lock") -> Iterator[bool]:
        """Holds the lock of the directory. Yields False if another process has it and not `wait`.

        Raises OSError if the directory cannot be written.
        """
        self._path.mkdir(parents=True, exist_ok=True)
        with (self._path / what).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True

    def _sweep(self, entries: list[_Entry]) -> None:
        """Deletes files that the manifest does not list. Processes may have them mapped."""
        kept = {entry.name for entry in entries} | {entry.alive for entry in entries}
        for pattern in ("*.segment", "*.alive", "*.new"):
            for path in self._path.glob(pattern):
                if path.name not in kept:
                    path.unlink(missing_ok=True)
        if not self.damaged() & kept:
            (self._path / _DAMAGED).unlink(missing_ok=True)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedSegments(f"{path} is missing") from error
