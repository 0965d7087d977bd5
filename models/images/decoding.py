"""Decodes picture files, also odd and hostile ones."""

import hashlib
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile

from models.images.decoder_process import CHILD
from models.images.formats import AVIF, HEIF, JPEG, PNG, WEBP, FileFormat, format_of
from models.images.jpeg_limits import bounded_jpeg, is_ended, is_single_scan
from models.images.orientation import orientation_of
from models.images.repair import ended_jpeg, png_without_notes, require_few_chunks
from models.types import BgrImage
from shared.errors import MalformedInput, MusterError, TooLarge, UnsupportedMedia

_TURNS: dict[int, Callable[[BgrImage], Any]] = {  # by the orientation that is undone
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.flip(image, -1),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
_IN_THIS_PROCESS = (JPEG, PNG, WEBP)  # decoders whose costs can be told from outside
_JPEG_REDUCTIONS = {  # what a JPEG decoder can divide both sides by while decoding
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """Limits of a picture. They are checked before it is decoded, by file length and header."""

    max_bytes: int = 20 << 20
    max_pixels: int = 25_000_000  # that are decoded; above, a JPEG is decoded at a fraction
    max_jpeg_pixels: int = 250_000_000  # of a JPEG before it is reduced
    at_once: int = 2  # decoded pictures in memory at a time, in one process


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture."""

    image: BgrImage  # upright
    reduction: int  # 1, or what the JPEG decoder divided both sides by


def read_picture(data: bytes, limits: PictureLimits | None = None) -> BgrImage:
    """Returns the image of `open_picture`."""
    return open_picture(data, limits).image


def open_picture(data: bytes, limits: PictureLimits | None = None) -> Picture:
    """Returns the picture in `data` as 8-bit BGR, upright, opaque (on white), the first frame.

    Reads JPEG, PNG, WebP, GIF, BMP and TIFF, in gray, CMYK, with palette, alpha or 16 bits, and
    AVIF and HEIC where the installed libraries do. A JPEG above `max_pixels` is decoded at 1/2, 1/4
    or 1/8 of its size. Raises TooLarge before decoding, UnsupportedMedia (`format`) for another
    kind of file, MalformedInput for a damaged picture.
    """
    limits = limits or PictureLimits()
    if not data:
        raise MalformedInput("the picture is empty: 0 bytes")
    if len(data) > limits.max_bytes:
        raise TooLarge(
            f"the picture has {len(data):,} bytes, at most {limits.max_bytes:,} are read",
            bytes=len(data),
            max_bytes=limits.max_bytes,
        )
    kind = _readable_format(data)
    if kind not in _IN_THIS_PROCESS:
        return Picture(CHILD.decode(data, limits.max_pixels), 1)
    if kind is JPEG:
        data = bounded_jpeg(data)
    elif kind is PNG:
        require_few_chunks(data)
    try:
        return _decoded(data, kind, limits)
    except MalformedInput as error:
        damage = MalformedInput(error.message)  # without the traceback, which holds the pixels
    repaired = _repaired(data, kind, limits)
    if repaired is None:
        raise damage
    return repaired


def decoded_here(data: bytes, limits: PictureLimits) -> BgrImage:
    """Decodes in this process the formats that `open_picture` decodes in another process."""
    return _decoded(data, _readable_format(data), limits).image


def _readable_format(data: bytes) -> FileFormat:
    """Returns the format of a picture. Raises UnsupportedMedia for unsupported ones."""
    kind = format_of(data)
    if kind is None:
        raise UnsupportedMedia(f"this is no picture that can be read ({_readable_names()})")
    if kind.decoder is None:
        raise UnsupportedMedia(
            f"this is {kind.name}, and pictures are read as {_readable_names()}", format=kind.name
        )
    if kind.decoder == HEIF.decoder and not _heif_is_installed():
        raise UnsupportedMedia(
            f"this is {kind.name}, and the library for those is not installed: send a JPEG, or run "
            "pip install 'muster[heic]' where pictures are read",
            format=kind.name,
        )
    if kind is AVIF and not features.check("avif"):
        raise UnsupportedMedia(
            f"this is {kind.name}, and the installed Pillow does not read those: send a JPEG, or "
            "install a newer Pillow where pictures are read",
            format=kind.name,
        )
    return kind


def _decoded(data: bytes, kind: FileFormat, limits: PictureLimits) -> Picture:
    """Raises TooLarge, UnsupportedMedia for pixels that are not read, MalformedInput for the rest.

    Decoders raise nearly everything when they are fed with damaged bytes.
    """
    try:
        if kind is PNG:
            _verify(data)
        with _open(data, kind) as image:
            reduction = _fit(image, limits, single_scan=kind is JPEG and is_single_scan(data))
            pixels = _jpeg_pixels(data, image, reduction) if kind is JPEG else None
            return Picture(_upright_bgr(image, pixels), reduction)
    except (MusterError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(
            f"the picture has far more than the {limits.max_pixels:,} pixels that are decoded",
            max_pixels=limits.max_pixels,
        ) from error
    except Exception as error:
        raise MalformedInput(
            f"the picture is damaged or truncated: it begins as {kind.name}, but {_reason(error)}"
        ) from error


def _repaired(data: bytes, kind: FileFormat, limits: PictureLimits) -> Picture | None:
    """Returns the picture without the parts that stop the decoder; None for damaged pixels."""
    if kind is PNG:
        return _decoded(png_without_notes(data), kind, limits)
    versions = ended_jpeg(data) if kind is JPEG else None
    if versions is None:
        return None
    ended, with_noise = versions
    try:
        expected = _digest(_decoded(with_noise, kind, limits))  # one at a time: they are large
        picture = _decoded(ended, kind, limits)
    except MalformedInput:
        return None
    return picture if _digest(picture) == expected else None


def _digest(picture: Picture) -> bytes:
    return hashlib.blake2b(picture.image.data).digest()


def _open(data: bytes, kind: FileFormat) -> Image.Image:
    stream = io.BytesIO(data)
    if kind is JPEG:
        # Opened by its own class, since for a JPEG our limits replace Pillow's global one, and
        # since of several pictures in one file (MPO) only the first is read.
        return JpegImageFile(stream)
    if kind.decoder == HEIF.decoder:
        from pillow_heif import HeifImageFile  # optional

        image: Image.Image = HeifImageFile(stream)  # type: ignore[no-untyped-call, unused-ignore]
        return image
    return Image.open(stream, formats=(kind.decoder or "",))


def _verify(data: bytes) -> None:
    """Raises MalformedInput if a PNG's checksums are wrong: its decoder would return black pixels.

    No other kind has checksums.
    """
    with Image.open(io.BytesIO(data), formats=(PNG.decoder or "",)) as image:
        image.verify()


def _fit(image: Image.Image, limits: PictureLimits, *, single_scan: bool) -> int:
    """Raises TooLarge, or sets the JPEG decoder to a smaller size. Decodes nothing."""
    width, height = image.size
    if width * height <= limits.max_pixels:
        return 1
    # In several scans all coefficients are kept in memory, at whatever size they are decoded.
    if single_scan and width * height <= limits.max_jpeg_pixels:
        for reduction in _JPEG_REDUCTIONS:
            size = (-(-width // reduction), -(-height // reduction))
            if size[0] * size[1] <= limits.max_pixels:
                image.draft(None, (max(1, width // reduction), max(1, height // reduction)))
                if image.size[0] * image.size[1] <= limits.max_pixels:
                    return reduction
    raise TooLarge(
        f"the picture has {width} × {height} pixels, at most {limits.max_pixels:,} are decoded",
        width=width,
        height=height,
        max_pixels=limits.max_pixels,
    )


def _jpeg_pixels(data: bytes, image: Image.Image, reduction: int) -> BgrImage | None:
    """Returns the BGR pixels of a JPEG as OpenCV decodes them, in half of Pillow's time.

    Both return the same pixels. None for a JPEG that Pillow has to judge: OpenCV fills what is
    missing with gray.
    """
    if image.mode not in ("RGB", "L") or not is_ended(data):
        return None
    flags = _JPEG_REDUCTIONS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)  # type: ignore[return-value]


def _upright_bgr(image: Image.Image, pixels: BgrImage | None) -> BgrImage:
    """Returns the image upright; `pixels` are its decoded BGR pixels, if it is not loaded."""
    if pixels is None:
        image.load()
    orientation = orientation_of(image)  # what is left of it: some decoders turn the pixels
    upright: BgrImage = (
        cv2.cvtColor(np.asarray(_opaque_rgb(image)), cv2.COLOR_RGB2BGR)  # type: ignore[assignment]
        if pixels is None
        else pixels
    )
    return _TURNS[orientation](upright) if orientation in _TURNS else upright


def _opaque_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnsupportedMedia("pictures of floating-point values are not read")
    if image.mode.startswith("I"):  # 16 bits a pixel, in Pillow's 16- or 32-bit modes
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies it even if it is


def _eight_bits(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    eight: NDArray[np.uint8] = (np.clip(values, 0, 65_535) // 257).astype(np.uint8)
    return eight


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # whose text names an object in memory
        return "what follows is not one"
    return str(error) or type(error).__name__


def _heif_is_installed() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


def _readable_names() -> str:
    names = ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"]
    if features.check("avif"):
        names.append("AVIF")
    if _heif_is_installed():
        names.append("HEIC")
    return ", ".join(names)
