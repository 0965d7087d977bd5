"""Repairs files that viewers show although they are not complete."""

import re
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from models.images.jpeg_limits import FRAMES, START_OF_SCAN
from shared.errors import MalformedInput

_END: Final = 0xD9
_BETWEEN_SCANS: Final = frozenset(
    {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}
)  # what may follow a scan, besides the end
_MARKER: Final = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)  # no stuffing, no restart
_NEXT_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # to search: linear
_END_MARKER: Final = b"\xff\xd9"
_MOST_SEGMENTS: Final = 2_000  # that are looked at
_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")
_NOISE: Final = b"\xb5\x69\xd2\xa6\x4d\x9b" * 42  # unlike zeros, which stand for what is missing

_PNG_SIGNATURE_BYTES: Final = 8
_PNG_END: Final = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_MOST_CHUNKS: Final = 50_000  # libpng writes 8 KiB a chunk
_PNG_KEPT: Final = (b"tRNS", b"eXIf")  # of what a decoder may do without


def ended_jpeg(data: bytes) -> tuple[bytes, bytes] | None:
    """A JPEG whose end marker is missing, with one, and the same with noise before the marker.

    The two show the same pixels where only the marker was missing: otherwise the noise stands for
    the missing part of the picture. What follows the picture, a film for example, is left out. None
    for another JPEG.
    """
    scan = _last_scan(data)
    if scan is None:
        return None
    picture = data[: scan.stop].rstrip(b"\xff")
    restarts = len(_RESTART.findall(data, scan.start, scan.stop))
    noise = _NOISE + bytes([0xFF, 0xD0 + restarts % 8]) + _NOISE
    return picture + _END_MARKER, picture + noise + _END_MARKER


def png_without_notes(data: bytes) -> bytes:
    """Returns a PNG without chunks that its pixels do not depend on, such as texts."""
    kept = [data[:_PNG_SIGNATURE_BYTES]]
    ended = False
    for chunk in _png_chunks(data):
        if chunk.critical or (chunk.kind in _PNG_KEPT and chunk.intact):
            kept.append(chunk.data)
        ended = ended or chunk.kind == b"IEND" or (chunk.critical and not chunk.whole)
    return b"".join(kept) + (b"" if ended else _PNG_END)


def require_few_chunks(data: bytes) -> None:
    """Raises MalformedInput for a PNG of more chunks than any program writes.

    Pillow takes some microseconds for each, and a chunk may be as short as 12 bytes.
    """
    position = _PNG_SIGNATURE_BYTES
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(data) or data[position + 4 : position + 8] == b"IEND":
            return
        position += 12 + int.from_bytes(data[position : position + 4])
    raise MalformedInput(
        f"the picture is a PNG in more than {_MOST_CHUNKS:,} pieces: save it again with any program"
    )


class _Chunk(NamedTuple):
    kind: bytes
    data: bytes  # with its length and its checksum
    whole: bool

    @property
    def critical(self) -> bool:
        return self.kind[:1].isupper()

    @property
    def intact(self) -> bool:
        checksum = int.from_bytes(self.data[-4:], "big")
        return self.whole and zlib.crc32(self.data[4:-4]) == checksum


def _png_chunks(data: bytes) -> Iterator[_Chunk]:
    position = _PNG_SIGNATURE_BYTES
    while position + 8 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        chunk = _Chunk(data[position + 4 : position + 8], data[position:end], end <= len(data))
        yield chunk
        if chunk.kind == b"IEND":
            return
        position = end


def _last_scan(data: bytes) -> slice | None:
    """Returns the coded data of the last scan of a JPEG without an end marker.

    None when it has one, or when its scans do not hold every coefficient in full.
    """
    scan = slice(0, 0)
    components: set[int] = set()
    complete: set[tuple[int, int]] = set()  # component, coefficient
    position = 2
    for _ in range(_MOST_SEGMENTS):
        match = _MARKER.match(data, position)
        if match is None:
            break
        marker, start = match[1][0], match.end()
        end = start + int.from_bytes(data[start : start + 2], "big")
        if marker == _END or end > len(data):
            return None
        segment = data[start + 2 : end]
        if marker in FRAMES:
            components = set(segment[6::3])
        position = end
        if marker == START_OF_SCAN:
            complete |= _completed(segment)
            position = _end_of_scan(data, end)
            scan = slice(end, position)
            if not _goes_on(data, position):
                break
    every = {(component, place) for component in components for place in range(64)}
    ends_here = position == len(data) or data[position + 1 : position + 2] != _END_MARKER[1:]
    return scan if every and every <= complete and ends_here else None


def _completed(header: bytes) -> set[tuple[int, int]]:
    """The coefficients whose last bit is in a scan of this header."""
    if len(header) < 4 or header[-1] & 0x0F:
        return set()
    first, last = header[-3], header[-2]
    return {(component, place) for component in header[1:-3:2] for place in range(first, last + 1)}


def _end_of_scan(data: bytes, start: int) -> int:
    match = _NEXT_MARKER.search(data, start)
    return len(data) if match is None else match.start()


def _goes_on(data: bytes, position: int) -> bool:
    """Returns whether a segment of the same picture begins here."""
    match = _MARKER.match(data, position)
    if match is None or match[1][0] not in _BETWEEN_SCANS:
        return False
    start = match.end()
    end = start + int.from_bytes(data[start : start + 2], "big")
    return end < len(data) and (match[1][0] == START_OF_SCAN or data[end] == 0xFF)
