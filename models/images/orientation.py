"""Reads and writes the orientation in EXIF, and nothing else of it.

Pillow reads all entries of an EXIF note, each with its own copy of its data; those of one note may
all mean the same 64 KiB, or megabytes.
"""

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION: Final = 0x0112
_SHORT: Final = 3
_EXIF: Final = b"Exif\x00\x00"
_ORDERS: Final = {b"II": "<", b"MM": ">"}
_RAW_PROFILE: Final = "Raw profile type exif"  # of ImageMagick, in a PNG: hexadecimal


def orientation_of(image: "Image") -> int:
    """Returns the orientation, 1 to 8 (EXIF, CIPA DC-008, 4.6.5.1); 1 if missing or invalid."""
    try:
        note = _note(image)
        if note is None:  # what XMP says; the note of a TIFF is the file itself
            return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged notes do not make the picture unreadable
        return 1
    return orientation_in(note)


def orientation_in(note: bytes) -> int:
    """Returns the orientation from the bytes of an EXIF segment."""
    tiff = note.removeprefix(_EXIF)
    order = _ORDERS.get(tiff[:2], "<")
    try:
        for tag, kind, count, value in _entries(tiff, order):
            if tag == _ORIENTATION and kind == _SHORT and count == 1:
                return value
    except struct.error:  # it ends early
        pass
    return 1


def note_of(orientation: int) -> bytes:
    """Returns an EXIF segment with this orientation only."""
    entry = struct.pack("<HHIHH", _ORIENTATION, _SHORT, 1, orientation, 0)
    return _EXIF + b"II*\x00\x08\x00\x00\x00\x01\x00" + entry + bytes(4)


def _note(image: "Image") -> bytes | None:
    exif = image.info.get("exif")
    raw = image.info.get(_RAW_PROFILE)
    if exif is None and raw is not None:
        return bytes.fromhex("".join(str(raw).split("\n")[3:]))
    return exif if isinstance(exif, bytes) else None


def _entries(tiff: bytes, order: str) -> Iterator[tuple[int, int, int, int]]:
    """Yields tag, type, number of values, and the value if it is a short."""
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        yield struct.unpack_from(f"{order}HHIH", tiff, at)
