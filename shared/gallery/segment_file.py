"""Segments in immutable files, in a layout that a scan can read in place.

A file has one page of header (JSON; the manifest has its digest), then sections that begin at
pages, in the order in which a search reads them. The header has a digest of each section.
"""

import hashlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import MusterError
from shared.files import durable_file, reserve
from shared.gallery.codebook import CodeBook
from shared.gallery.segment import GROUP, Planes, Segment

FORMAT = 2
_MAGIC = b"MUSTERG1"
_PAGE = 4096
_MAX_GROUPS = (2**31 - 1) // GROUP  # limit of the kernel


class DamagedSegments(MusterError):
    """The files of a gallery are incomplete, changed, or of another gallery: rebuild it."""

    code = "damaged_segments"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")
    offset: int = Field(ge=0)
    bytes: int = Field(ge=0)
    digest: str


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: int
    book: str
    count: int = Field(ge=0)
    groups: int = Field(ge=0, le=_MAX_GROUPS)
    sections: dict[str, _Section]

    def fits(self, layout: "_Layout") -> bool:
        """Returns whether counts and sections are those of this layout."""
        expected = {
            name: (offset, _section_bytes(shape, dtype))
            for name, (offset, shape, dtype) in layout.items()
        }
        actual = {name: (section.offset, section.bytes) for name, section in self.sections.items()}
        return actual == expected and self.groups == -(-self.count // GROUP)


def write_segment(
    path: Path, book: CodeBook, fill: Callable[[Callable[[int], Segment]], Segment]
) -> str:
    """Writes a new, durable file whose content `fill` makes. Returns the header's digest.

    Raises OSError if the disk has not enough space, before anything is written.
    """
    with durable_file(path) as file:
        return _fill(file, path.name, book, fill)


def _fill(
    file: BinaryIO, name: str, book: CodeBook, fill: Callable[[Callable[[int], Segment]], Segment]
) -> str:
    made: list[mmap.mmap] = []

    def new_segment(count: int) -> Segment:
        layout = _layout(book, -(-count // GROUP))
        reserve(file.fileno(), _file_bytes(layout))
        made.append(mmap.mmap(file.fileno(), 0))
        return _segment_of(made[0], layout, count, name)

    digest = _write_header(made, book, fill(new_segment))
    made[0].flush()
    return digest


def map_segment(path: Path, book: CodeBook, digest: str) -> Segment:
    """Maps a segment file. Reads only its header. Raises DamagedSegments."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise DamagedSegments(f"{path} is missing") from error
    with file:
        text = _header_text(file, path)
        if digest_of(text) != digest:
            raise DamagedSegments(f"{path} is not the segment that the manifest names")
        header = _parsed(path, text)
        if header.format != FORMAT or header.book != book_digest(book):
            raise DamagedSegments(f"{path} is of another format, dimension or code book")
        layout = _layout(book, header.groups)
        if not header.fits(layout):
            raise DamagedSegments(f"{path} has a header whose counts do not fit together")
        if os.fstat(file.fileno()).st_size != _file_bytes(layout):
            raise DamagedSegments(f"{path} is cut short")
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    rows = layout["rows"][0]
    if hasattr(mmap, "MADV_RANDOM"):  # few rows are read: do not read ahead
        buffer.madvise(mmap.MADV_RANDOM, rows, len(buffer) - rows)
        buffer.madvise(mmap.MADV_WILLNEED, 0, rows)
    return _segment_of(buffer, layout, header.count, path.name)


def verify_segment(path: Path, keep_on: Callable[[], bool]) -> None:
    """Reads all of a segment and compares its digests. Raises DamagedSegments, FileNotFoundError.

    Stops without a result as soon as `keep_on` returns False.
    """
    with path.open("rb") as file:
        header = _parsed(path, _header_text(file, path))
        for name, section in header.sections.items():
            file.seek(section.offset)
            state, left = hashlib.blake2b(digest_size=16), section.bytes
            while left and keep_on() and (part := file.read(min(left, 1 << 20))):
                state.update(part)
                left -= len(part)
            if not keep_on():
                return
            if state.hexdigest() != section.digest:
                raise DamagedSegments(f"{path}: section {name!r} has changed")


def book_digest(book: CodeBook) -> str:
    """Returns a digest of all parameters of the codes."""
    parts = [np.array(part).tobytes() for part in book.packed]
    return digest_of(b"".join(parts))


_Layout = dict[str, tuple[int, tuple[int, ...], DTypeLike]]


def _layout(book: CodeBook, groups: int) -> _Layout:
    """Returns offset, shape and type of each section, in the order in which a scan reads them."""
    places = GROUP * groups
    shapes: dict[str, tuple[tuple[int, ...], DTypeLike]] = {
        "high": ((groups, book.width // 16, 64), np.uint8),
        "mid": ((groups, book.width // 16, 64), np.uint8),
        "errors": ((3, places), np.uint16),
        "ids": ((places,), np.uint64),
        "hashes": ((places,), np.uint64),
        "low": ((places, book.width // 2), np.uint8),
        "rows": ((places, book.dimension), np.float16),
    }
    layout: _Layout = {}
    offset = _PAGE
    for name, (shape, dtype) in shapes.items():
        layout[name] = offset, shape, dtype
        offset += -(-_section_bytes(shape, dtype) // _PAGE) * _PAGE
    return layout


def _section_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


def _file_bytes(layout: _Layout) -> int:
    offset, shape, dtype = layout["rows"]
    return offset + -(-_section_bytes(shape, dtype) // _PAGE) * _PAGE


def _segment_of(buffer: mmap.mmap, layout: _Layout, count: int, name: str) -> Segment:
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
    hashes = section("hashes").view(np.uint64)
    return Segment(planes, rows, ids, hashes, count, order=None, name=name)


def _write_header(made: list[mmap.mmap], book: CodeBook, segment: Segment) -> str:
    """Writes the header of a complete segment and returns its digest."""
    sections = {}
    for key, (offset, shape, dtype) in _layout(book, segment.groups).items():
        size = _section_bytes(shape, dtype)
        with memoryview(made[0]) as whole, whole[offset : offset + size] as part:
            sections[key] = _Section(offset=offset, bytes=size, digest=digest_of(part))
    header = _Header(
        format=FORMAT,
        book=book_digest(book),
        count=segment.count,
        groups=segment.groups,
        sections=sections,
    )
    text = header.model_dump_json().encode()
    page = _MAGIC + len(text).to_bytes(4, "little") + text
    made[0][: len(page)] = page
    return digest_of(text)


def _header_text(file: BinaryIO, path: Path) -> bytes:
    page = file.read(_PAGE)
    size = int.from_bytes(page[8:12], "little")
    if page[:8] != _MAGIC or size > _PAGE - 12:
        raise DamagedSegments(f"{path} is not a segment")
    return page[12 : 12 + size]


def _parsed(path: Path, text: bytes) -> _Header:
    try:
        return _Header.model_validate_json(text)
    except ValidationError as error:
        raise DamagedSegments(f"{path} has a damaged header") from error


def digest_of(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
