"""Pictures that are expensive to decode, and a fuzzer that makes more from valid ones."""

import contextlib
import io
import random
import struct
import time
import zlib
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image

from models.images.decoding import PictureLimits, read_picture
from shared.errors import MalformedInput, TooLarge, UnsupportedMedia

_LIMITS: Final = PictureLimits(max_pixels=4_000_000)
_SLOWEST_S: Final = 15.0  # for a picture of some KB: what the child may take, and a busy machine


def encoded(kind: str, size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    """Returns a picture of noise, which uses all features of a codec."""
    pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def _segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2) + data


def _before_frame(notes: bytes) -> bytes:
    jpeg = encoded("JPEG")
    return jpeg[:2] + notes + jpeg[2:]


def jpeg_of_scans(scans: int, side: int = 4096) -> bytes:
    """Returns a progressive JPEG of one grey, with thousands of useless scans."""
    head = b"\xff\xd8" + _segment(0xDB, bytes(1) + bytes([16] * 64))
    head += _segment(0xC2, struct.pack(">BHHBBBB", 8, side, side, 1, 1, 0x11, 0))
    # One code of a bit for a direct current of no difference, one for "no more in 32,767 blocks".
    head += _segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00")
    head += _segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0")
    blocks = (side // 8) ** 2
    first = _segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0])) + bytes(-(-blocks // 8))
    runs = -(-blocks // 32_767)
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\x00")
    again = _segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0])) + coded
    return head + first + again * scans + b"\xff\xd9"


def jpeg_in_three_scans(side: int) -> bytes:
    """Returns a JPEG with a scan for each colour: all coefficients stay in memory."""
    head = b"\xff\xd8" + _segment(0xDB, bytes(1) + bytes([16] * 64))
    colours = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    head += _segment(0xC0, struct.pack(">BHHB", 8, side, side, 3) + colours)
    for table in (b"\x00", b"\x10"):
        head += _segment(0xC4, table + bytes([1] + [0] * 15) + b"\x00")
    scan = bytes(2 * (side // 8) ** 2 // 8)
    return head + b"".join(
        _segment(0xDA, bytes([1, number, 0x00, 0, 63, 0])) + scan for number in (1, 2, 3)
    )


def _exif_of_copies(data_bytes: int) -> bytes:
    """Returns EXIF with thousands of entries that refer to the same bytes."""
    entries = (data_bytes - 1024) // 12
    tiff = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", entries)
    tiff += b"".join(
        struct.pack("<HHII", tag + 0x200, 7, data_bytes - 64, 8) for tag in range(entries)
    )
    return b"Exif\x00\x00" + tiff + bytes(data_bytes - len(tiff))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def _png_with(notes: bytes) -> bytes:
    png = encoded("PNG")
    return png[:33] + notes + png[33:]


def tiff_of_a_giant_tile() -> bytes:
    """Returns a TIFF of 100 × 100 pixels in a short LZW tile of 46,000 × 46,000."""
    entries = [
        (256, 3, 1, 100), (257, 3, 1, 100), (258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 1),
        (277, 3, 1, 1), (284, 3, 1, 1), (322, 4, 1, 46_000), (323, 4, 1, 46_000),
        (324, 4, 1, 200), (325, 4, 1, 100),
    ]  # fmt: skip
    tiff = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(entries))
    tiff += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return tiff.ljust(200, b"\0") + b"\x80\x00\x00" + bytes(97)


def avif_that_lies() -> bytes:
    """Returns an AVIF whose header says 64 × 64 and whose image has 4096 × 4096."""
    avif = bytearray(encoded("AVIF", (4096, 4096), quality=1, speed=10))
    at = avif.index(b"ispe") + 8
    avif[at : at + 8] = struct.pack(">II", 64, 64)
    return bytes(avif)


def gif_of_comments(size: int) -> bytes:
    gif = encoded("GIF")
    comment = b"\x21\xfe" + (b"\xff" + b"c" * 255) * (size // 256) + b"\x00"
    at = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    return gif[:at] + comment + gif[at:]


def bmp_of_runs(side: int) -> bytes:
    """Returns a BMP with a run for each pixel, which Pillow unpacks in Python."""
    pixels = (b"\x01\x07" * side + b"\x00\x00") * side + b"\x00\x01"
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    palette = bytes(1024)
    offset = 14 + len(head) + len(palette)
    file = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    return file + head + palette + pixels


def webp_of_chunks(count: int) -> bytes:
    webp = encoded("WEBP")
    size = struct.pack("<I", len(webp) + 18 + 8 * count - 8)
    extended = b"VP8X" + struct.pack("<IB", 10, 0) + bytes(3)
    extended += (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
    return webp[:4] + size + b"WEBP" + extended + webp[12:] + b"XXXX\0\0\0\0" * count


def webp_of_a_large_canvas() -> bytes:
    webp = bytearray(webp_of_chunks(0))
    webp[24:30] = (16_383).to_bytes(3, "little") * 2
    return bytes(webp)


BOMBS: Final[dict[str, Callable[[], bytes]]] = {
    "JPEG of 9,000 scans": lambda: jpeg_of_scans(9_000),
    "JPEG of 200 scans": lambda: jpeg_of_scans(200),
    "JPEG of a million segments": lambda: _before_frame(_segment(0xE1, b"") * 1_000_000),
    "JPEG of 200,000 pieces of EXIF": lambda: _before_frame(
        _segment(0xE1, b"Exif\x00\x00" + bytes(4)) * 200_000
    ),
    "JPEG after 8 MB of padding": lambda: _before_frame(b"\xff" * 8_000_000),
    "JPEG of 225 megapixels in three scans": lambda: jpeg_in_three_scans(15_000),
    "PNG of a million chunks": lambda: _png_with(_chunk(b"tEXt", b"") * 1_000_000),
    "TIFF of one giant tile": tiff_of_a_giant_tile,
}
"""What is refused."""

_PROFILE: Final = "\nexif\n1000\n" + _exif_of_copies(400_000).hex()
ODDITIES: Final[dict[str, Callable[[], bytes]]] = {
    "AVIF that lies about its size": avif_that_lies,
    "GIF of 8 MB of comments": lambda: gif_of_comments(8_000_000),
    "JPEG of 60 scans": lambda: jpeg_of_scans(60, 256),
    "JPEG whose EXIF means the same bytes 5,000 times": lambda: _before_frame(
        _segment(0xE1, _exif_of_copies(65_000))
    ),
    "JPEG of 300 notes": lambda: _before_frame(_segment(0xED, bytes(40_000)) * 300),
    "PNG of 60 zipped megabytes": lambda: _png_with(
        _chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(1_000_000))) * 60
    ),
    "PNG with a profile of zipped 100 megabytes": lambda: _png_with(
        _chunk(b"iCCP", b"all\0\0" + zlib.compress(bytes(100_000_000), 1))
    ),
    "PNG whose EXIF means the same bytes 33,000 times": lambda: _png_with(
        _chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(_PROFILE.encode()))
    ),
    "WebP of a million chunks": lambda: webp_of_chunks(1_000_000),
    "BMP of a million runs": lambda: bmp_of_runs(1_000),
}
"""What is read, and costs little."""


def _sound() -> list[bytes]:
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
    made = [encoded(kind) for kind in kinds]
    made += [encoded("JPEG", progressive=True), encoded("TIFF", compression="tiff_lzw")]
    made += [encoded("WEBP", lossless=True), encoded("TIFF", compression="jpeg")]
    return [*made, jpeg_of_scans(3, 64), tiff_of_a_giant_tile(), webp_of_chunks(3)]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Returns the file with bytes, numbers or ranges changed, doubled or removed."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(made))
        match chance.randrange(5):
            case 0:
                made[at] = chance.randrange(256)
            case 1:
                made[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
            case 2:
                made[at : at + 2] = chance.choice((b"\xff\xff", b"\x00\x00", b"\x80\x00"))
            case 3:
                stretch = made[at : at + chance.randint(1, 64)]
                made[at:at] = stretch * chance.randint(1, 200)
            case _ if len(made) > 16:
                del made[at : at + chance.randint(1, 16)]
    return bytes(made) or b"\0"


def run(seconds: float, seed: int) -> str:
    """Reads mutated pictures for some time. Raises any error but MusterError."""
    chance, files = random.Random(seed), _sound()
    until_s = time.monotonic() + seconds
    tried = read = 0
    slowest_s = 0.0
    while time.monotonic() < until_s:
        started_s = time.monotonic()
        data = mutated(chance.choice(files), chance)
        tried += 1
        with contextlib.suppress(MalformedInput, UnsupportedMedia, TooLarge):
            read += read_picture(data, _LIMITS).ndim == 3
        slowest_s = max(slowest_s, time.monotonic() - started_s)
        if slowest_s > _SLOWEST_S:
            raise AssertionError(f"seed {seed}, picture {tried}: {slowest_s:.0f} s, {data.hex()}")
    return f"{tried:,} pictures, {read:,} of them read, the slowest in {slowest_s:.2f} s"
