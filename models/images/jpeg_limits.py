"""Limits the work that a JPEG causes in a decoder: few scans, few segments.

A decoder goes over the whole picture once for each scan, and Pillow over each segment before the
first scan in Python; a file can hold thousands of the former and millions of the latter. Pictures
of cameras have at most some dozen of both (ITU-T T.81, B.1 and B.2).
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from models.images.orientation import note_of, orientation_in
from shared.errors import MalformedInput

MOST_SCANS: Final = 64
MOST_SCANNED_PIXELS: Final = 500_000_000  # pixels times scans: 20 scans of 25 megapixels
_LARGEST: Final = 25_000_000  # pixels; in several scans nobody decodes more
_MOST_SEGMENTS: Final = 1_000  # 320 hold 20 MiB
_MOST_JUNK_BYTES: Final = 65_536  # between segments
_MARKER: Final = re.compile(rb"\xff([^\x00\xff])")  # with any number of 0xff before it
_NEXT_SEGMENT: Final = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # after coded data
START_OF_SCAN, _END = 0xDA, 0xD9
FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_TABLES: Final = frozenset({*FRAMES, 0xC4, 0xCC, 0xDB, 0xDC, 0xDD})
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
_EXIF: Final = b"Exif\x00\x00"
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\x00"


def bounded_jpeg(data: bytes) -> bytes:
    """Returns the JPEG without metadata that its pixels do not depend on.

    Of EXIF it keeps the orientation. Raises MalformedInput for more scans or segments than any
    camera writes.
    """
    kept: list[bytes] = [data[:2]]
    seen: set[bytes] = set()
    frame = _Frame()
    for marker, start, end in _segments(data):
        if marker == START_OF_SCAN:
            if not frame.is_in(data[start:end]):
                _require_few_scans(data, start, frame)
            kept.append(data[start:])
            return b"".join(kept)
        if marker in FRAMES:
            frame = _frame(data[start:end])
        if marker in _TABLES:
            kept.append(data[start:end])
        elif (kind := _kind_of_note(marker, data[start + 4 : end])) and kind not in seen:
            seen.add(kind)
            kept.append(_exif(data[start:end]) if kind == _EXIF else data[start:end])
    return data  # without a scan: the decoder says what is wrong


def is_single_scan(data: bytes) -> bool:
    """Returns whether all of a JPEG is in its first scan."""
    frame = _Frame()
    for marker, start, end in _segments(data):
        if marker in FRAMES:
            frame = _frame(data[start:end])
        elif marker == START_OF_SCAN:
            return frame.is_in(data[start:end])
    return False


def is_ended(data: bytes) -> bool:
    """Returns whether a JPEG has an end marker after its scans, and no other segments there."""
    single, at = is_single_scan(data), _first_scan(data)
    for _ in range(_MOST_SEGMENTS):
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
        match = _NEXT_SEGMENT.search(data, at)
        if match is None:
            return False
        if match[1][0] == _END or single:
            return match[1][0] == _END
        at = match.start()
    return False


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Returns width and height from a JPEG's frame header; None if it has none.

    Raises the errors of `bounded_jpeg`.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    for marker, start, end in _segments(data):
        if marker in FRAMES:
            frame = _frame(data[start:end])
            return frame.width, frame.height
    return None


def _first_scan(data: bytes) -> int:
    """Returns where the first scan begins; the length of `data` if there is none."""
    return next(
        (start for marker, start, _ in _segments(data) if marker == START_OF_SCAN), len(data)
    )


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields marker, start and end of each segment up to the first scan."""
    at, junk = 2, 0
    for _ in range(_MOST_SEGMENTS):
        match = _MARKER.search(data, at, at + _MOST_JUNK_BYTES)
        if match is None:
            if len(data) - at > _MOST_JUNK_BYTES:
                break
            return
        marker, start = match[1][0], match.start()
        junk += start - at
        if junk > _MOST_JUNK_BYTES:
            break
        at = start + 2
        if marker not in _ALONE:
            at += max(2, int.from_bytes(data[at : at + 2]))
        if marker == _END or at > len(data):
            return
        yield marker, start, at
        if marker == START_OF_SCAN:
            return
    raise MalformedInput(
        f"the picture has more than {_MOST_SEGMENTS:,} segments before its pixels, or garbage "
        "between them: save it again with any program for pictures"
    )


class _Frame(NamedTuple):
    """The content of a frame header."""

    width: int = 0
    height: int = 0
    colours: int = 0
    progressive: bool = False

    def is_in(self, scan: bytes) -> bool:
        """Returns whether the whole picture is in the scan with this header."""
        return not self.progressive and scan[4:5] == bytes([self.colours])


def _frame(segment: bytes) -> _Frame:
    if len(segment) < 10:
        return _Frame()
    height, width = int.from_bytes(segment[5:7]), int.from_bytes(segment[7:9])
    return _Frame(width, height, segment[9], segment[1] in _PROGRESSIVE)


def _require_few_scans(data: bytes, first: int, frame: _Frame) -> None:
    pixels = min(frame.width * frame.height, _LARGEST)
    most = min(MOST_SCANS, MOST_SCANNED_PIXELS // max(1, pixels))
    if data.count(b"\xff\xda", first) <= most:
        return
    at = first  # a pair of bytes like that may also stand in a note, or after the picture
    for _ in range(most + _MOST_SEGMENTS):
        match = _NEXT_SEGMENT.search(data, at)
        if match is None or match[1][0] == _END:
            return
        most -= match[1][0] == START_OF_SCAN
        if most < 0:
            break
        at = match.end() + int.from_bytes(data[match.end() : match.end() + 2])
    raise MalformedInput(
        f"the picture is a JPEG in far more scans than any program makes (at most {MOST_SCANS}, "
        "fewer where it is large): save it again, not progressive"
    )


def _kind_of_note(marker: int, note: bytes) -> bytes:
    """Returns the kind of a segment that pixels depend on; empty for other segments."""
    if marker in (_APP0, _APP14):  # colours
        return bytes([marker])
    if marker == _APP1:  # orientation
        return next((kind for kind in (_EXIF, _XMP) if note.startswith(kind)), b"")
    return b""


def _exif(segment: bytes) -> bytes:
    note = note_of(orientation_in(segment[4:]))
    return segment[:2] + (len(note) + 2).to_bytes(2) + note
