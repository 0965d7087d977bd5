"""The directory of a gallery: its segments, and the manifest that says which of them count.

The manifest is replaced atomically. It names the segments, tells which of their templates are
alive, and up to which change of the feed they are complete; what it does not name does not exist.
"""

import fcntl
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.files import write_durably
from shared.gallery.codebook import CodeBook
from shared.gallery.segment import Shelf, View, full_view, number_of_bits
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
    seq: int = Field(ge=0, lt=2**62)
    segments: list[_Entry]


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """What one manifest says."""

    seq: int  # all changes up to this one are contained
    views: tuple[View, ...]
    stamp: tuple[int, int, int]  # of the manifest file: differs from any other generation's


class Directory:
    """The files of one gallery. Several processes may hold one each on the same path."""

    def __init__(self, path: Path, book: CodeBook, origin: str) -> None:
        self._path = path
        self._book = book
        self._origin = origin
        self._mapped: dict[str, tuple[Shelf, str]] = {}

    def stamp(self) -> tuple[int, int, int] | None:
        """Identity of the current manifest file; None: there is none."""
        try:
            facts = (self._path / _MANIFEST).stat()
        except FileNotFoundError:
            return None
        return facts.st_ino, facts.st_mtime_ns, facts.st_size

    def read(self) -> Generation | None:
        """Map what the manifest names; None: there is none. Raises DamagedSegments."""
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

    def _read(self, stamp: tuple[int, int, int]) -> Generation:
        manifest = self._read_manifest()
        views = []
        for entry in manifest.segments:
            shelf = self._map(entry.name, entry.header)
            alive = full_view(shelf).alive
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
            views.append(View(shelf, alive, entry.live))
        self._mapped = {entry.name: self._mapped[entry.name] for entry in manifest.segments}
        return Generation(manifest.seq, tuple(views), stamp)

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

    def _map(self, name: str, header: str) -> Shelf:
        if (known := self._mapped.get(name)) is not None and known[1] == header:
            return known[0]
        shelf = map_segment(self._path / name, self._book, header)
        self._mapped[name] = shelf, header
        return shelf

    def write_segment(self, fill: Callable[[Callable[[int], Shelf]], Shelf]) -> Shelf:
        """Have `fill` make a shelf in a new file, and answer it once all of it is on the disk."""
        name = f"{uuid.uuid4().hex}.segment"
        header = write_segment(self._path / name, self._book, fill)
        return self._map(name, header)

    def commit(self, seq: int, views: tuple[View, ...]) -> None:
        """Make these views of segments the gallery's content as of change `seq`."""
        entries = []
        for view in views:
            name = view.shelf.name or ""
            entry = _Entry(name=name, header=self._mapped[name][1], live=view.live)
            if view.live < view.shelf.count:
                raw = view.alive.tobytes()
                entry.alive = f"{name}.{uuid.uuid4().hex}.alive"
                entry.alive_digest = digest_of(raw)
                write_durably(self._path / entry.alive, raw)
            entries.append(entry)
        manifest = _Manifest(
            format=FORMAT,
            origin=self._origin,
            book=book_digest(self._book),
            seq=seq,
            segments=entries,
        )
        text = manifest.model_dump_json().encode()
        write_durably(self._path / _MANIFEST, text + b"\n" + digest_of(text).encode())
        self._sweep(entries)

    def verify(self, view: View, keep_on: Callable[[], bool]) -> None:
        """Read all of a segment and compare its digests. Raises DamagedSegments.

        Stops early, saying nothing, when `keep_on` answers False.
        """
        name = view.shelf.name or ""
        try:
            verify_segment(self._path / name, keep_on)
        except FileNotFoundError as error:
            # A segment is removed only after a manifest that does not name it was written.
            if any(entry.name == name for entry in self._read_manifest().segments):
                raise DamagedSegments(f"{self._path / name} is missing") from error

    @contextmanager
    def locked(self, wait: bool, what: str = "lock") -> Iterator[bool]:
        """Hold the only right to do it. Answers whether it was got: without `wait` it may not.

        Raises OSError where nothing can be written.
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
        """Remove files that no manifest names any more; who has them mapped keeps them."""
        kept = {entry.name for entry in entries} | {entry.alive for entry in entries}
        for pattern in ("*.segment", "*.alive", "*.new"):
            for path in self._path.glob(pattern):
                if path.name not in kept:
                    path.unlink(missing_ok=True)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedSegments(f"{path} is missing") from error
