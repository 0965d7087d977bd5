"""Cutting faces out of pictures."""

import cv2
import numpy as np
from numpy.typing import NDArray

from models.types import BgrImage


def stretch(image: BgrImage, box: NDArray[np.float32], size: tuple[int, int]) -> BgrImage:
    """The part of `image` inside `box` (x1 y1 x2 y2, pixels), stretched to `size` (width, height).

    Where the box reaches outside the picture, the picture's edge is continued, so that fractions
    of the crop stay fractions of the box.
    """
    x1, y1, x2, y2 = box.tolist()
    scale_x, scale_y = size[0] / (x2 - x1), size[1] / (y2 - y1)
    # Pixel centres lie at +0.5, hence the half pixels (as cv2.resize has them).
    matrix = np.array(
        [
            [scale_x, 0.0, (0.5 - x1) * scale_x - 0.5],
            [0.0, scale_y, (0.5 - y1) * scale_y - 0.5],
        ]
    )
    crop: BgrImage = cv2.warpAffine(  # type: ignore[assignment]
        image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return crop


def enlarge(boxes: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Boxes (n, 4) x1 y1 x2 y2 made `factor` times as wide and high about their centres."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    halves = (boxes[:, 2:] - boxes[:, :2]) * np.float32(factor / 2)
    return np.concatenate([centres - halves, centres + halves], axis=1)


def clip(boxes: NDArray[np.float32], image: BgrImage) -> NDArray[np.float32]:
    """The parts of boxes (n, 4) that lie inside the picture."""
    height, width = image.shape[:2]
    limits = np.array([width, height, width, height], np.float32)
    return np.clip(boxes, 0, limits)
