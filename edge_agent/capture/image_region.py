"""What of a camera's picture is used: turned upright, private parts blacked out, cut to a region.

In this order, so that masks and region are drawn on the picture as a person sees it, upright, and
nothing after this ever sees what is masked. Boxes go out in pixels of that whole upright picture,
whatever region of it was searched.
"""

from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np

from models.types import BgrImage

Point = tuple[float, float]  # x, y as fractions 0..1 of the upright picture
Rotation = Literal[0, 90, 180, 270]

_TURNS: Final = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


@dataclass(frozen=True, slots=True)
class View:
    """How a camera's pictures become the ones that are looked at. The default changes nothing."""

    rotate: Rotation = 0  # degrees clockwise, until people stand upright
    masks: tuple[tuple[Point, ...], ...] = ()  # polygons that nobody may look into
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)  # x1 y1 x2 y2, fractions

    def upright(self, image: BgrImage) -> BgrImage:
        """The whole picture, turned and masked. `image` is the caller's to give: it is changed."""
        if self.rotate:
            image = cv2.rotate(image, _TURNS[self.rotate]).astype(np.uint8, copy=False)
        if self.masks:
            # Fractions of the picture name its edges; a pixel's own coordinates, its middle.
            sides = np.array([image.shape[1], image.shape[0]])
            polygons = [
                np.round(np.array(mask) * sides - 0.5).astype(np.int32) for mask in self.masks
            ]
            for polygon in polygons:  # one by one: where two overlap, both are black
                cv2.fillPoly(image, [polygon], (0, 0, 0))
        return image

    def cut(self, image: BgrImage) -> tuple[BgrImage, tuple[int, int]]:
        """The region of an upright picture, and the pixel (x, y) where it begins."""
        height, width = image.shape[:2]
        x1, y1 = (
            min(int(self.region[0] * width), width - 1),
            min(int(self.region[1] * height), height - 1),
        )
        x2, y2 = (
            max(x1 + 1, round(self.region[2] * width)),
            max(y1 + 1, round(self.region[3] * height)),
        )
        return image[y1:y2, x1:x2], (x1, y1)
