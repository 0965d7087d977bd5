"""Segments on disk: immutable files that all processes map, and the manifest that names them.

A segment is one file: a page of header (JSON with its own digest), then page-aligned sections. It
gets its final name only when all its bytes are on the disk. The manifest is replaced atomically and
says which segments count, which of their templates are alive, and up to which change of the feed
they are complete. What the manifest does not name does not exist. Digests chain: the manifest holds
that of each header, the header those of its sections; the former are checked when a directory is
opened, the latter by `verify`.
"""

import fcntl
import hashlib
import mmap
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from match_server.gallery.quantise import CodeBook
from match_server.gallery.shelf import GROUP, Planes, Shelf, View, full_view
from shared.errors import MusterError

FORMAT = 1
_MAGIC = b"MUSTERG1"
_PAGE = 4096
_MANIFEST = "manifest.json"


class DamagedSegments(MusterError):
    """The files of a gallery are incomplete, changed, or not of this gallery: rebuild it."""

    code = "damaged_segments"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")
    offset: int
    bytes: int
    digest: str


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: int
    book: str
    count: int
    groups: int
    sections: dict[str, _Section]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    header: str  # digest
    alive: str | None = None  # file of the bits; None: all alive
    alive_digest: str | None = None
    live: int


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: int
    origin: str
    book: str
    seq: int
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
        path.mkdir(parents=True, exist_ok=True)

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
                if _digest(raw) != entry.alive_digest or len(raw) != alive.nbytes:
                    raise DamagedSegments(f"{self._path / entry.alive} has changed")
                alive = np.frombuffer(raw, dtype=np.uint16)
            views.append(View(shelf, alive, entry.live))
        self._mapped = {entry.name: self._mapped[entry.name] for entry in manifest.segments}
        return Generation(manifest.seq, tuple(views), stamp)

    def _read_manifest(self) -> _Manifest:
        path = self._path / _MANIFEST
        text, _, digest = _read_bytes(path).rpartition(b"\n")
        if _digest(text) != digest.decode("ascii", "replace"):
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

    def _map(self, name: str, header_digest: str) -> Shelf:
        if name not in self._mapped:
            self._mapped[name] = _map_segment(self._path / name, self._book), header_digest
        shelf, _ = self._mapped[name]
        if _digest(_header_bytes(self._path / name)) != header_digest:
            raise DamagedSegments(f"{self._path / name} is not the segment that the manifest names")
        return shelf

    def write_segment(self, fill: Callable[[Callable[[int], Shelf]], Shelf]) -> Shelf:
        """Have `fill` make a shelf in a new file, and answer it once all of it is on the disk."""
        name = f"{uuid.uuid4().hex}.segment"
        path = self._path / (name + ".new")
        with path.open("xb+") as file:
            made: list[mmap.mmap] = []

            def new_shelf(count: int) -> Shelf:
                layout = _layout(self._book, -(-count // GROUP))
                file.truncate(_file_bytes(layout))
                made.append(mmap.mmap(file.fileno(), 0))
                return _shelf(made[0], layout, count, name)

            shelf = fill(new_shelf)
            header = _seal_header(made[0], self._book, shelf)
            made[0].flush()
            os.fsync(file.fileno())
        path.rename(self._path / name)
        _fsync_directory(self._path)
        mapped = _map_segment(self._path / name, self._book)
        self._mapped[name] = mapped, header
        return mapped

    def commit(self, seq: int, views: tuple[View, ...]) -> None:
        """Make these views of segments the gallery's content as of change `seq`."""
        entries = []
        for view in views:
            name = view.shelf.name or ""
            entry = _Entry(name=name, header=self._mapped[name][1], live=view.live)
            if view.live < view.shelf.count:
                raw = view.alive.tobytes()
                entry.alive = f"{name}.{uuid.uuid4().hex}.alive"
                entry.alive_digest = _digest(raw)
                _write_durably(self._path / entry.alive, raw)
            entries.append(entry)
        manifest = _Manifest(
            format=FORMAT,
            origin=self._origin,
            book=book_digest(self._book),
            seq=seq,
            segments=entries,
        )
        text = manifest.model_dump_json().encode()
        fresh = self._path / f"{_MANIFEST}.new"
        _write_durably(fresh, text + b"\n" + _digest(text).encode())
        fresh.rename(self._path / _MANIFEST)
        _fsync_directory(self._path)
        self._sweep(entries)

    def verify(self, view: View, keep_on: Callable[[], bool]) -> None:
        """Read all of a segment and compare its digests. Raises DamagedSegments.

        Stops early, saying nothing, when `keep_on` answers False.
        """
        path = self._path / (view.shelf.name or "")
        try:
            with path.open("rb") as file:
                header = _parse_header(path, _header_bytes(path))
                for name, section in header.sections.items():
                    if not keep_on():
                        return
                    file.seek(section.offset)
                    if _digest_of(file.read1, section.bytes) != section.digest:
                        raise DamagedSegments(f"{path}: section {name!r} has changed")
        except FileNotFoundError:
            return  # merged away meanwhile: no longer served

    @contextmanager
    def locked(self, wait: bool) -> Iterator[bool]:
        """Hold the right to write. Answers whether it was got; without `wait` it may be not."""
        with (self._path / "lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True

    def _sweep(self, entries: list[_Entry]) -> None:
        """Remove files that no manifest names any more; who has them mapped keeps them."""
        kept = {entry.name for entry in entries} | {entry.alive for entry in entries}
        for pattern in ("*.segment", "*.segment.new", "*.alive"):
            for path in self._path.glob(pattern):
                if path.name not in kept:
                    path.unlink(missing_ok=True)


def book_digest(book: CodeBook) -> str:
    """Names everything that codes depend on."""
    parts = [np.array(part).tobytes() for part in book.packed]
    return _digest(b"".join(parts))


_Layout = dict[str, tuple[int, tuple[int, ...], DTypeLike]]


def _layout(book: CodeBook, groups: int) -> _Layout:
    """Offset, shape and type of each section, in the order in which a scan wants them."""
    places = GROUP * groups
    shapes: dict[str, tuple[tuple[int, ...], DTypeLike]] = {
        "high": ((groups, book.width // 16, 64), np.uint8),
        "mid": ((groups, book.width // 16, 64), np.uint8),
        "errors": ((3, places), np.uint16),
        "ids": ((places,), np.uint64),
        "low": ((places, book.width // 2), np.uint8),
        "rows": ((places, book.dimension), np.float16),
    }
    layout: _Layout = {}
    offset = _PAGE
    for name, (shape, dtype) in shapes.items():
        layout[name] = offset, shape, dtype
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        offset += -(-size // _PAGE) * _PAGE
    return layout


def _section_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


def _file_bytes(layout: _Layout) -> int:
    offset, shape, dtype = layout["rows"]
    return offset + -(-_section_bytes(shape, dtype) // _PAGE) * _PAGE


def _shelf(buffer: mmap.mmap, layout: _Layout, count: int, name: str) -> Shelf:
    def section(key: str) -> NDArray[np.generic]:
        offset, shape, dtype = layout[key]
        size = int(np.prod(shape))
        return np.frombuffer(buffer, dtype=dtype, count=size, offset=offset).reshape(shape)

    planes = Planes(
        section("high").view(np.uint8),
        section("mid").view(np.uint8),
        section("low").view(np.uint8),
        section("errors").view(np.uint16),
    )
    rows, ids = section("rows").view(np.float16), section("ids").view(np.uint64)
    return Shelf(planes, rows, ids, count, order=None, name=name)


def _seal_header(buffer: mmap.mmap, book: CodeBook, shelf: Shelf) -> str:
    """Write the header of a finished segment; answers its digest."""
    sections = {}
    for key, (offset, shape, dtype) in _layout(book, shelf.groups).items():
        size = _section_bytes(shape, dtype)
        with memoryview(buffer) as whole, whole[offset : offset + size] as part:
            sections[key] = _Section(offset=offset, bytes=size, digest=_digest(part))
    header = _Header(
        format=FORMAT,
        book=book_digest(book),
        count=shelf.count,
        groups=shelf.groups,
        sections=sections,
    )
    text = header.model_dump_json().encode()
    page = _MAGIC + len(text).to_bytes(4, "little") + text
    buffer[: len(page)] = page
    return _digest(text)


def _header_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        page = file.read(_PAGE)
    size = int.from_bytes(page[8:12], "little")
    if page[:8] != _MAGIC or size > _PAGE - 12:
        raise DamagedSegments(f"{path} is not a segment")
    return page[12 : 12 + size]


def _parse_header(path: Path, text: bytes) -> _Header:
    try:
        return _Header.model_validate_json(text)
    except ValidationError as error:
        raise DamagedSegments(f"{path} has a damaged header") from error


def _map_segment(path: Path, book: CodeBook) -> Shelf:
    header = _parse_header(path, _header_bytes(path))
    if header.format != FORMAT or header.book != book_digest(book):
        raise DamagedSegments(f"{path} is of another format, dimension or code book")
    layout = _layout(book, header.groups)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != _file_bytes(layout):
            raise DamagedSegments(f"{path} is cut short")
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return replace(_shelf(buffer, layout, header.count, path.name), order=None)


def _digest(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _digest_of(read: Callable[[int], bytes], size: int) -> str:
    state = hashlib.blake2b(digest_size=16)
    while size and (part := read(min(size, 1 << 20))):
        state.update(part)
        size -= len(part)
    return state.hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedSegments(f"{path} is missing") from error


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _fsync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
