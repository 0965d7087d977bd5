"""Which part of a camera's picture is searched: turned upright, masked, cut to a region.

Masks and region refer to the upright picture, as a person sees it. Nothing after this step sees a
masked part. Boxes are reported in pixels of the whole upright picture.
"""

from typing import Final

import cv2
import numpy as np

from edge_agent.config.camera import ViewSettings
from models.types import BgrImage

_ROTATIONS: Final = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


def upright(image: BgrImage, view: ViewSettings) -> BgrImage:
    """The whole picture, rotated and masked. `image` is changed."""
    if view.rotate:
        image = cv2.rotate(image, _ROTATIONS[view.rotate]).astype(np.uint8, copy=False)
    # Fractions refer to the edges of the picture, OpenCV's coordinates to the middle of a pixel.
    sides = np.array([image.shape[1], image.shape[0]])
    for mask in view.masks:  # each by itself: where two overlap, both are black
        polygon = np.round(np.array(mask) * sides - 0.5).astype(np.int32)
        cv2.fillPoly(image, [polygon], (0, 0, 0))
    return image


def cut_region(image: BgrImage, view: ViewSettings) -> tuple[BgrImage, tuple[int, int]]:
    """The region of an upright picture, and its first pixel (x, y)."""
    height, width = image.shape[:2]
    left, top, right, bottom = view.region
    x1, y1 = min(int(left * width), width - 1), min(int(top * height), height - 1)
    x2, y2 = max(x1 + 1, round(right * width)), max(y1 + 1, round(bottom * height))
    return image[y1:y2, x1:x2], (x1, y1)
