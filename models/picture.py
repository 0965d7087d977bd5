"""From the bytes of a picture file to pixels, however odd or hostile the bytes are."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from models.types import BgrImage
from shared.errors import MalformedInput, MusterError, TooLarge, UnsupportedMedia

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JPEG_REDUCTIONS = (1, 2, 4, 8)  # what a JPEG decoder can divide both sides by while decoding


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What is accepted, judged by the file's length and its header before anything is decoded."""

    max_bytes: int = 20 << 20
    max_pixels: int = 25_000_000  # that are decoded; above, a JPEG is decoded at a fraction
    max_jpeg_pixels: int = 250_000_000  # of a JPEG before it is reduced


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture that was read."""

    image: BgrImage  # upright
    reduction: int  # 1, or what the JPEG decoder divided both sides by


def read_picture(data: bytes, limits: PictureLimits | None = None) -> BgrImage:
    """`open_picture`, for who does not ask where in the file things are."""
    return open_picture(data, limits).image


def open_picture(data: bytes, limits: PictureLimits | None = None) -> Picture:
    """The picture in `data` as 8-bit BGR, upright, opaque (on white), its first frame if animated.

    Reads JPEG, PNG, WebP, GIF, BMP and TIFF, in gray, CMYK, with palette, alpha or 16 bits. A
    JPEG above `max_pixels` is decoded at 1/2, 1/4 or 1/8 of its size. Raises TooLarge before
    decoding, UnsupportedMedia for what is no such picture, MalformedInput for a damaged one.
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
    try:
        _verify(data)
        with _open(data) as image:
            reduction = _fit(image, limits)
            return Picture(_upright_bgr(image), reduction)
    except (MusterError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(
            f"the picture has far more than the {limits.max_pixels:,} pixels that are decoded",
            max_pixels=limits.max_pixels,
        ) from error
    except UnidentifiedImageError as error:
        raise UnsupportedMedia(f"this is no picture that can be read ({_kinds()})") from error
    except Exception as error:  # decoders fed with damaged bytes raise nearly everything
        raise MalformedInput(f"the picture is damaged or truncated: {error}") from error


def _open(data: bytes) -> Image.Image:
    stream = io.BytesIO(data)
    if data.startswith(b"\xff\xd8\xff"):
        # Opened by its own class, since for a JPEG our limits replace Pillow's global one.
        return JpegImageFile(stream)
    return Image.open(stream, formats=_FORMATS)


def _verify(data: bytes) -> None:
    """Raise where a PNG's own checksums say that it is damaged: its decoder would go on in black.

    No other kind has checksums.
    """
    if data.startswith(_PNG):
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.verify()


def _fit(image: Image.Image, limits: PictureLimits) -> int:
    """Refuse what is too large, or tell the JPEG decoder to reduce it; nothing is decoded yet."""
    width, height = image.size
    if width * height <= limits.max_pixels:
        return 1
    # A progressive JPEG keeps all its coefficients in memory, at whatever size it is decoded.
    reducible = isinstance(image, JpegImageFile) and not image.info.get("progressive")
    if reducible and width * height <= limits.max_jpeg_pixels:
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


def _upright_bgr(image: Image.Image) -> BgrImage:
    orientation = _orientation(image)
    image.load()
    rgb = _opaque_rgb(image)
    if orientation in _TURNS:
        rgb = rgb.transpose(_TURNS[orientation])
    return cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2BGR)  # type: ignore[return-value]


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata does not make the picture unreadable
        return 1


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


def _kinds() -> str:
    return ", ".join(_FORMATS)
