"""Recognises file formats by their first bytes."""

import re
from dataclasses import dataclass
from typing import Final

_HEAD_BYTES: Final = 4096  # enough for the list of brands and for the first words of a text


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A file format."""

    name: str  # with its article: "a PDF file"
    media_type: str = "application/octet-stream"
    decoder: str | None = None  # its name in Pillow; None for a kind that is not read


JPEG: Final = FileFormat("a JPEG picture", "image/jpeg", "JPEG")  # MPO files are JPEGs too
PNG: Final = FileFormat("a PNG picture", "image/png", "PNG")
WEBP: Final = FileFormat("a WebP picture", "image/webp", "WEBP")
GIF: Final = FileFormat("a GIF picture", "image/gif", "GIF")
BMP: Final = FileFormat("a BMP picture", "image/bmp", "BMP")
TIFF: Final = FileFormat("a TIFF picture", "image/tiff", "TIFF")
AVIF: Final = FileFormat("an AVIF picture", "image/avif", "AVIF")
HEIC: Final = FileFormat("a HEIC picture", "image/heic", "HEIF")
HEIF: Final = FileFormat("a HEIF picture", "image/heif", "HEIF")

_FILM: Final = FileFormat("an MP4 or QuickTime film")
_RAW: Final = FileFormat("a raw photo of a camera")
_SVG: Final = FileFormat("an SVG drawing")
_HTML: Final = FileFormat("an HTML page")
_TEXT: Final = FileFormat("a text file")

_BEGINNINGS: Final = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"II*\x00\x10\x00\x00\x00CR", _RAW),
    (b"II*\x00", TIFF),
    (b"MM\x00*", TIFF),
    (b"II+\x00", TIFF),
    (b"MM\x00+", TIFF),
    (b"%PDF-", FileFormat("a PDF file")),
    (b"8BPS", FileFormat("a Photoshop file")),
    (b"\x00\x00\x01\x00", FileFormat("an icon file")),
    (b"\xff\x0a", FileFormat("a JPEG XL picture")),
    (b"\x00\x00\x00\x0cJXL ", FileFormat("a JPEG XL picture")),
    (b"\x00\x00\x00\x0cjP  ", FileFormat("a JPEG 2000 picture")),
    (b"\xff\x4f\xff\x51", FileFormat("a JPEG 2000 picture")),
    (b"\x1aE\xdf\xa3", FileFormat("a Matroska or WebM film")),
    (b"PK\x03\x04", FileFormat("a ZIP archive")),
    (b"\x1f\x8b", FileFormat("a gzip archive")),
    (b"Rar!", FileFormat("a RAR archive")),
    (b"7z\xbc\xaf\x27\x1c", FileFormat("a 7-Zip archive")),
)
_IN_RIFF: Final = {b"WEBP": WEBP, b"AVI ": FileFormat("an AVI film")}
_BRANDS: Final = {
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis"), HEIC),
    **dict.fromkeys((b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"), HEIF),
    b"crx ": _RAW,
}
_BMP_HEADERS: Final = frozenset({12, 16, 40, 52, 56, 64, 108, 124})  # lengths, in bytes
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def format_of(data: bytes) -> FileFormat | None:
    """Returns the format of a file; None if it is unknown."""
    head = data[:_HEAD_BYTES]
    if head[:4] == b"RIFF":
        return _IN_RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return BMP
    for beginning, file_format in _BEGINNINGS:
        if head.startswith(beginning):
            return file_format
    return _of_text(head)


def media_type_of(data: bytes) -> str:
    """Returns the media type of a picture."""
    file_format = format_of(data)
    return FileFormat("").media_type if file_format is None else file_format.media_type


def _of_brands(head: bytes) -> FileFormat:
    """Returns the format by the major and compatible brands of ISO/IEC 14496-12."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))]
    formats = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    # `mif1` says only that there are pictures inside: another brand says how they are coded.
    return next((each for each in formats if each is not HEIF), formats[0] if formats else _FILM)


def _of_text(head: bytes) -> FileFormat | None:
    if not head or _CONTROLS.search(head):
        return None
    try:
        text = head.decode("utf-8-sig").lstrip().lower()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not just a character that was cut in two
            return None
        text = head[: error.start].decode("utf-8-sig").lstrip().lower()
    if "<svg" in text:
        return _SVG
    return _HTML if text.startswith(("<!doctype html", "<html")) else _TEXT
