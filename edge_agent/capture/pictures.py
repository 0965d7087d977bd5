"""Pictures as cameras send them, bounded before they are decoded."""

from functools import cache
from typing import Final

import cv2
import numpy as np

from models.types import BgrImage
from shared.errors import SourceError, UnreadablePicture
from shared.memory import memory_limit_bytes

_SHARE: Final = 8  # a decoded picture may take this part of the memory; three are held at a time
_BYTES_A_PIXEL: Final = 3
_LARGEST: Final = 50_000_000  # pixels: no camera has more
_LEAST: Final = 2_100_000  # 1920 × 1080 is read whatever the memory
_SIZE_MARKERS: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_MARKERS_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})


@cache
def max_pixels() -> int:
    """How many pixels a picture may have: 22 million where the service may use 512 MiB."""
    return min(_LARGEST, max(_LEAST, memory_limit_bytes() // _SHARE // _BYTES_A_PIXEL))


def require_size(name: str, width: float, height: float) -> None:
    """Raises SourceError where a camera's or film's pictures are too large for this machine."""
    if width * height > max_pixels():
        raise SourceError(
            f"{name} gives pictures of {width:.0f} × {height:.0f}, more than the {max_pixels():,} "
            "pixels that this box has the memory for: choose a smaller picture in the camera",
            source=name,
        )


def decode_jpeg(data: bytes) -> BgrImage:
    """The picture in `data`. Raises UnreadablePicture, for a too large one before decoding."""
    if not data:
        raise UnreadablePicture("the picture is empty")
    size = jpeg_size(data)
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


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in a JPEG's frame header; None where there is none (ITU-T T.81, B.2.2)."""
    if not data.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _SIZE_MARKERS:
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return int.from_bytes(width), int.from_bytes(height)
        elif marker in _MARKERS_WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None
