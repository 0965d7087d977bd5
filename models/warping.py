"""Cuts faces out of pictures."""

import math

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
    return warp(image, matrix, size, cv2.BORDER_REPLICATE)


def warp(
    image: BgrImage, matrix: NDArray[np.float64], size: tuple[int, int], border: int
) -> BgrImage:
    """`image` under the affine map `matrix` (2, 3), as far as it falls into `size`.

    A map that shrinks strongly would pick single pixels with their noise; the part of the picture
    that it shows is averaged down first.
    """
    if _shrinks(matrix) > _SPARSE:
        image, matrix = _averaged_down(image, matrix, size)
    warped: BgrImage = cv2.warpAffine(  # type: ignore[assignment]
        image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border
    )
    return warped


_SPARSE = 4.0  # source pixels for each pixel shown, along one side


def _shrinks(matrix: NDArray[np.float64]) -> float:
    """Returns how many source pixels make one pixel of the result, along one side."""
    (a, b, _), (c, d, _) = matrix.tolist()
    area = abs(a * d - b * c)
    return 1 / math.sqrt(area) if area > 0 else math.inf


def _averaged_down(
    image: BgrImage, matrix: NDArray[np.float64], size: tuple[int, int]
) -> tuple[BgrImage, NDArray[np.float64]]:
    """The shown part of `image`, shrunk by a whole factor, and the map that now leads to `size`."""
    factor = int(_shrinks(matrix) / 2)
    corners = np.array([[0, 0, 1], [size[0], 0, 1], [0, size[1], 1], [*size, 1]])
    shown = corners @ np.asarray(cv2.invertAffineTransform(matrix)).T
    frame = (image.shape[1], image.shape[0])
    low = np.clip(np.floor(shown.min(axis=0)) - factor, 0, frame).astype(int)
    cells = (np.clip(np.ceil(shown.max(axis=0)) + factor, 0, frame).astype(int) - low) // factor
    if (cells < 1).any():
        return image, matrix
    high = low + cells * factor
    part = image[low[1] : high[1], low[0] : high[0]]
    smaller: BgrImage = cv2.resize(part, cells.tolist(), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    # A pixel of the smaller picture stands at the middle of `factor` pixels of the old one.
    back = np.array(
        [[factor, 0, low[0] + (factor - 1) / 2], [0, factor, low[1] + (factor - 1) / 2]]
    )
    return smaller, matrix @ np.vstack([back, [0, 0, 1]])


def enlarge(boxes: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Returns boxes (n, 4) x1 y1 x2 y2, `factor` times as wide and high about their centres."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    halves = (boxes[:, 2:] - boxes[:, :2]) * np.float32(factor / 2)
    return np.concatenate([centres - halves, centres + halves], axis=1)


def clip(boxes: NDArray[np.float32], image: BgrImage) -> NDArray[np.float32]:
    """Returns the parts of boxes (n, 4) inside the picture."""
    height, width = image.shape[:2]
    limits = np.array([width, height, width, height], np.float32)
    return np.clip(boxes, 0, limits)
