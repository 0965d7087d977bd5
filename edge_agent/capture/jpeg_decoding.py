"""Decodes JPEG pictures of cameras, within limits that are checked before decoding."""

from functools import cache
from typing import Final

import cv2
import numpy as np

from models.images.jpeg_limits import bounded_jpeg, jpeg_size
from models.types import BgrImage
from shared.errors import MalformedInput, SourceError, UnreadablePicture
from shared.malloc_trim import memory_limit_bytes

_SHARE: Final = 8  # a decoded picture may use 1/8 of the memory; three are in memory at a time
_BYTES_A_PIXEL: Final = 3
_MAX_PIXELS: Final = 50_000_000  # pixels: no camera has more
_MIN_PIXELS: Final = 2_100_000  # 1920 × 1080 is always read


@cache
def max_pixels() -> int:
    """How many pixels a picture may have: 22 million where the service may use 512 MiB."""
    return min(_MAX_PIXELS, max(_MIN_PIXELS, memory_limit_bytes() // _SHARE // _BYTES_A_PIXEL))


def require_size(name: str, width: float, height: float) -> None:
    """Raises SourceError where a camera's or film's pictures are too large for this machine."""
    if width * height > max_pixels():
        raise SourceError(
            f"{name} gives pictures of {width:.0f} × {height:.0f}, more than the {max_pixels():,} "
            "pixels that this box has the memory for: choose a smaller picture in the camera",
            source=name,
        )


def decode_jpeg(data: bytes) -> BgrImage:
    """The picture in `data`.

    Raises UnreadablePicture; for one that is too large, before decoding.
    """
    if not data:
        raise UnreadablePicture("the picture is empty")
    try:
        data, size = bounded_jpeg(data), jpeg_size(data)
    except MalformedInput as error:
        raise UnreadablePicture(error.message) from error
    if size is None:
        raise UnreadablePicture("the picture is no JPEG, or its header is damaged")
    if not 0 < size[0] * size[1] <= max_pixels():
        raise UnreadablePicture(
            f"the picture's header says {size[0]} × {size[1]}; at most {max_pixels():,} pixels "
            "are decoded with the memory of this box"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError) as error:
        raise UnreadablePicture(f"the picture cannot be decoded: {type(error).__name__}") from error
    if image is None:
        raise UnreadablePicture("the picture is damaged or cut short")
    return image.astype(np.uint8, copy=False)
