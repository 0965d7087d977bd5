"""Pictures as they come: every kind, every orientation, damaged, hostile, too large."""

import io
import itertools
import random
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.images import decoding as picture_module
from models.images.decoding import PictureLimits, open_picture, read_picture
from models.images.formats import FileFormat, media_type_of
from models.types import BgrImage
from shared.errors import MalformedInput, TooLarge, UnsupportedMedia

WIDE, HIGH = 64, 48


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def quarters() -> Image.Image:
    """Red at the top left, green at the top right, blue at the bottom left, black else."""
    pixels = np.zeros((HIGH, WIDE, 3), np.uint8)
    pixels[: HIGH // 2, : WIDE // 2] = (255, 0, 0)
    pixels[: HIGH // 2, WIDE // 2 :] = (0, 255, 0)
    pixels[HIGH // 2 :, : WIDE // 2] = (0, 0, 255)
    return Image.fromarray(pixels)


def assert_quarters(picture: BgrImage, tolerance: int = 8) -> None:
    high, wide = picture.shape[:2]
    seen = [
        picture[high // 4, wide // 4],
        picture[high // 4, 3 * wide // 4],
        picture[3 * high // 4, wide // 4],
        picture[3 * high // 4, 3 * wide // 4],
    ]
    expected = [(0, 0, 255), (0, 255, 0), (255, 0, 0), (0, 0, 0)]  # blue, green, red
    np.testing.assert_allclose(seen, expected, atol=tolerance)


KINDS = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_bgr(kind: str) -> None:
    data = encoded(quarters(), kind, **({"quality": 100} if kind == "JPEG" else {}))
    picture = read_picture(data)
    assert media_type_of(data) == KINDS[kind]
    assert picture.shape == (HIGH, WIDE, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous
    assert_quarters(picture, tolerance=12)


_UNTURNED = {  # orientation: how the upright picture is stored
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("orientation", _UNTURNED)
@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF tiff_lzw", "TIFF jpeg", "AVIF", "HEIF"]
)
def test_the_orientation_in_the_file_is_applied_once(kind: str, orientation: int) -> None:
    kind, _, compression = kind.partition(" ")
    options: dict[str, Any] = {"compression": compression} if compression else {"quality": 95}
    exif = Image.Exif()
    exif[0x0112] = orientation
    written = exif.tobytes() if kind == "HEIF" else exif  # else its encoder writes no turn
    data = encoded(_UNTURNED[orientation](quarters()), kind, exif=written, **options)
    picture = read_picture(data)
    assert picture.shape == (HIGH, WIDE, 3)
    assert_quarters(picture, tolerance=24)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_make_a_picture_unreadable() -> None:
    damaged = b"Exif\x00\x00MM\x00\x2a\x7f\xff\xff\xff\x00\x12"
    assert_quarters(read_picture(encoded(quarters(), "JPEG", exif=damaged, quality=100)), 12)


def test_grayscale_has_three_equal_channels() -> None:
    picture = read_picture(encoded(Image.new("L", (WIDE, HIGH), 77), "PNG"))
    assert np.unique(picture).tolist() == [77]


def test_one_bit_a_pixel_is_black_and_white() -> None:
    image = Image.new("1", (WIDE, HIGH), 1)
    image.paste(0, (0, 0, WIDE // 2, HIGH))
    picture = read_picture(encoded(image, "PNG"))
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_the_colours_that_it_prints(kind: str) -> None:
    picture = read_picture(encoded(quarters().convert("CMYK"), kind))
    assert_quarters(picture, tolerance=20)


def test_sixteen_bits_are_reduced_to_eight() -> None:
    values = np.array([[0, 32_896, 65_535]], np.uint16)
    picture = read_picture(encoded(Image.fromarray(values), "PNG"))
    assert picture[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_becomes_white(mode: str) -> None:
    image = Image.new("RGBA", (WIDE, HIGH), (0, 0, 0, 0)).convert(mode)
    image.paste((0, 0, 0, 255) if mode == "RGBA" else (0, 255), (0, 0, WIDE // 2, HIGH))
    picture = read_picture(encoded(image, "PNG"))
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, -1].tolist() == [255, 255, 255]


def test_a_palette_with_a_transparent_colour_is_read() -> None:
    image = Image.new("P", (WIDE, HIGH), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (0, 0, WIDE // 2, HIGH))
    picture = read_picture(encoded(image, "PNG", transparency=0))
    assert picture[0, 0].tolist() == [50, 100, 200]
    assert picture[0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    others = [Image.new("RGB", (WIDE, HIGH), colour) for colour in ("white", "yellow")]
    data = encoded(quarters(), kind, save_all=True, append_images=others)
    assert_quarters(read_picture(data), tolerance=24)


def test_an_empty_picture_says_so() -> None:
    with pytest.raises(MalformedInput, match="0 bytes"):
        read_picture(b"")


@pytest.mark.parametrize("data", [b"<svg></svg>", b"%PDF-1.7", b"\x00" * 1000, b"hello"])
def test_what_is_no_picture_names_what_is_read(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match="JPEG, PNG"):
        read_picture(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_picture_is_malformed(kind: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises((MalformedInput, UnsupportedMedia)):
        read_picture(data[: int(len(data) * share)])


@pytest.mark.parametrize("place", [0.3, 0.5, 0.9])
def test_a_png_with_a_damaged_middle_is_malformed_and_not_black_from_there_on(place: float) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = bytearray(encoded(Image.fromarray(noise), "PNG"))
    assert read_picture(bytes(data)).shape == (64, 64, 3)
    data[int(len(data) * place)] ^= 0xFF
    with pytest.raises(MalformedInput, match="damaged"):
        read_picture(bytes(data))


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_end_in_a_picture_or_in_our_own_error(kind: str) -> None:
    rng = np.random.default_rng(7)
    intact = np.frombuffer(encoded(quarters(), kind), np.uint8)
    for _ in range(150):
        data = intact.copy()
        data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        try:
            picture = read_picture(data.tobytes(), PictureLimits(max_pixels=1_000_000))
        except (MalformedInput, UnsupportedMedia, TooLarge):
            continue
        assert picture.ndim == 3


def test_too_many_bytes_are_refused() -> None:
    data = encoded(quarters(), "PNG")
    with pytest.raises(TooLarge, match="at most 100 are read"):
        read_picture(data, PictureLimits(max_bytes=100))


def test_a_jpeg_of_80_megapixels_is_reduced_while_decoding() -> None:
    image = Image.new("RGB", (10_000, 8_000), "blue")
    image.paste("red", (0, 0, 5_000, 4_000))
    picture = read_picture(encoded(image, "JPEG"))
    assert picture.shape == (4_000, 5_000, 3)
    np.testing.assert_allclose(picture[100, 100], (0, 0, 255), atol=4)
    np.testing.assert_allclose(picture[-100, -100], (255, 0, 0), atol=4)


def test_a_progressive_jpeg_of_80_megapixels_is_refused() -> None:
    data = encoded(Image.new("RGB", (10_000, 8_000)), "JPEG", progressive=True)
    with pytest.raises(TooLarge, match="10000 × 8000 pixels"):
        read_picture(data)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing: a decompression bomb's fuse."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00"))
        + chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.mark.parametrize("size", [(10_000, 8_000), (60_000, 60_000)])
def test_other_large_pictures_are_refused_before_memory_is_taken(size: tuple[int, int]) -> None:
    data = png_header(*size)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="pixels"):
            read_picture(data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_jpeg_beyond_all_reduction_is_refused() -> None:
    tiny = encoded(Image.new("RGB", (16, 16)), "JPEG")
    place = tiny.index(b"\xff\xc0") + 5  # height and width in the frame header
    huge = tiny[:place] + struct.pack(">HH", 60_000, 60_000) + tiny[place + 4 :]
    with pytest.raises(TooLarge, match="60000 × 60000"):
        read_picture(huge)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(UnsupportedMedia, match="floating-point"):
        read_picture(encoded(Image.new("F", (WIDE, HIGH), 0.5), "TIFF"))


def noise(mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(3).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


JPEGS = {
    "baseline": {},
    "restarts": {"restart_marker_blocks": 3},
    "flat with restarts": {"restart_marker_blocks": 1, "flat": True},
    "progressive": {"progressive": True},
    "gray": {"mode": "L"},
    "subsampled": {"subsampling": 2},
}


def jpeg_of(name: str) -> bytes:
    options: dict[str, Any] = dict(JPEGS[name])
    flat = options.pop("flat", False)
    mode = options.pop("mode", "RGB")
    image = Image.new(mode, (128, 96), (90, 140, 200)) if flat else noise(mode)
    return encoded(image, "JPEG", **options)


@pytest.mark.parametrize(
    ("name", "reduction"),
    [("progressive", 1), *itertools.product(sorted(set(JPEGS) - {"progressive"}), (1, 2, 4, 8))],
)
def test_a_jpeg_has_the_pixels_that_pillow_decodes(name: str, reduction: int) -> None:
    data = jpeg_of(name)
    with Image.open(io.BytesIO(data)) as image:
        width, height = (-(-side // reduction) for side in image.size)
        image.draft(None, (image.width // reduction, image.height // reduction))
        expected = np.asarray(image.convert("RGB"))[..., ::-1]
    picture = open_picture(data, PictureLimits(max_pixels=width * height))
    assert picture.reduction == reduction
    np.testing.assert_array_equal(picture.image, expected)


def test_damaged_jpegs_are_read_or_refused_as_pillow_does(
    capfd: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(11)
    refused = 0
    for name in JPEGS:
        intact = np.frombuffer(jpeg_of(name), np.uint8)
        for _ in range(60):
            data = intact.copy()
            data[rng.integers(len(data) // 8, len(data), 3)] = rng.integers(0, 256, 3)
            try:
                with Image.open(io.BytesIO(data.tobytes())) as image:
                    expected = np.asarray(image.convert("RGB"))[..., ::-1]
            except OSError:
                refused += 1
                if data[-2:].tobytes() == b"\xff\xd9":
                    with pytest.raises(MalformedInput):
                        read_picture(data.tobytes())
            else:
                np.testing.assert_array_equal(read_picture(data.tobytes()), expected)
    assert refused > 10
    capfd.readouterr()  # the decoder's remarks


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("trailer", [b"", b"\xff", b"\x00\x00\x00\x18ftypmp42\xff\xda\xff\xc0\x00"])
def test_a_jpeg_that_lacks_only_its_end_marker_is_read(name: str, trailer: bytes) -> None:
    whole = jpeg_of(name)
    np.testing.assert_array_equal(read_picture(whole[:-2] + trailer), read_picture(whole))


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_that_lacks_some_of_its_pixels_is_malformed(name: str) -> None:
    whole = jpeg_of(name)
    for missing in (*range(4, 40), 150, 400):
        with pytest.raises(MalformedInput, match="begins as a JPEG"):
            read_picture(whole[: -2 - missing])


def test_a_progressive_jpeg_without_its_last_scan_is_malformed() -> None:
    whole = jpeg_of("progressive")
    with pytest.raises(MalformedInput, match="truncated"):
        read_picture(whole[: whole.rindex(b"\xff\xc4")])  # the tables of the last scan


def png_chunk(kind: bytes, body: bytes, *, intact: bool = True) -> bytes:
    checksum = zlib.crc32(kind + body) ^ (not intact)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


LARGE = zlib.compress(random.Random(4).randbytes(1000) * 3000)


@pytest.mark.parametrize(
    "note",
    [
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
        png_chunk(b"zTXt", b"Comment\0\0" + LARGE),
        png_chunk(b"iCCP", b"profile\0\0" + LARGE),
        png_chunk(b"tEXt", b"Comment\0hello", intact=False),
        png_chunk(b"eXIf", b"MM\0*", intact=False),
        png_chunk(b"tEXt", b"Comment\0hello") * 3 + png_chunk(b"iTXt", b"no separator"),
    ],
    ids=["large XMP", "large text", "large profile", "text checksum", "EXIF checksum", "no text"],
)
def test_a_png_is_read_in_spite_of_a_note_that_is_large_or_damaged(note: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    whole = encoded(_UNTURNED[3](quarters()), "PNG", exif=exif)
    after_header = 8 + 25
    assert_quarters(read_picture(whole[:after_header] + note + whole[after_header:]))


def test_a_png_that_lacks_only_its_end_is_read() -> None:
    assert_quarters(read_picture(encoded(quarters(), "PNG")[:-12]))


def test_of_several_pictures_in_one_jpeg_the_first_is_read_and_it_stays_a_jpeg() -> None:
    data = encoded(quarters(), "MPO", save_all=True, append_images=[noise()], quality=100)
    assert b"MPF\0" in data
    assert_quarters(read_picture(data), tolerance=12)
    assert media_type_of(data) == "image/jpeg"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"%PDF-1.7\n", "a PDF file"),
        (b"<?xml version='1.0'?><svg></svg>", "an SVG drawing"),
        (b"\xef\xbb\xbf<!DOCTYPE html>", "an HTML page"),
        (b"8BPS\x00\x01", "a Photoshop file"),
        (b"BMW, Audi and others", "a text file"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom", "an MP4 or QuickTime film"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "an AVI film"),
        ("data:image/jpeg;base64,…".encode(), "a text file"),
        ("é".encode() * 3000, "a text file"),  # the head ends within a character
    ],
)
def test_a_file_of_another_kind_is_named(data: bytes, named: str) -> None:
    with pytest.raises(
        UnsupportedMedia, match=f"this is {named}, and pictures are read as JPEG"
    ) as e:
        read_picture(data)
    assert e.value.details == {"format": named}


def test_a_kind_whose_library_is_missing_is_named_with_the_way_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(picture_module, "_heif_is_installed", lambda: False)
    monkeypatch.setattr(picture_module.features, "check", lambda _name: False)
    heic = b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic"
    with pytest.raises(UnsupportedMedia, match=r"a HEIC picture, .* pip install 'muster\[heic\]'"):
        read_picture(heic)
    with pytest.raises(UnsupportedMedia, match=r"an AVIF picture, .* newer Pillow"):
        read_picture(heic.replace(b"heic", b"avif"))
    with pytest.raises(UnsupportedMedia, match=r"\(JPEG, PNG, WebP, GIF, BMP, TIFF\)"):
        read_picture(b"\x00" * 100)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_a_new_kind_keeps_the_limit_of_pixels(kind: str) -> None:
    data = encoded(Image.new("RGB", (400, 300)), kind)
    with pytest.raises(TooLarge, match="400 × 300"):
        read_picture(data, PictureLimits(max_pixels=100_000))


def test_a_truncated_jpeg_is_decoded_at_most_thrice(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bytes] = []
    original = picture_module._open

    def counting(data: bytes, kind: FileFormat) -> Image.Image:
        opened.append(data)
        return original(data, kind)

    monkeypatch.setattr(picture_module, "_open", counting)
    with pytest.raises(MalformedInput):
        read_picture(jpeg_of("baseline")[:-500])
    assert len(opened) == 3
