"""Whether anything moves before a camera: cheap enough to be asked of every frame."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.types import BgrImage

_CELLS: Final = (80, 45)  # the picture, thinned out to so many cells
_SAMPLES_A_CELL: Final = 4  # along each side: their mean has a quarter of the sensor's noise
_CHANGED: Final = 8.0  # grey levels: noise and video compression stay below
_LEAST_CELLS: Final = 3  # a face of a twentieth of the picture's width covers twelve

Cells = NDArray[np.float32]  # (45, 80) grey levels


class MotionWatch:
    """Compares pictures with the last one that was searched for faces. One camera each.

    Not with the picture before: what changes slowly adds up until it is seen.
    """

    def __init__(self) -> None:
        self._searched: Cells | None = None
        self._now: Cells | None = None

    def moved(self, image: BgrImage) -> bool:
        """Whether `image` shows something else than the picture that was searched last."""
        self._now = _cells(image)
        if self._searched is None:
            return True
        # Other light, or a camera that adapts to it, is no motion: most cells tell by how much.
        gain = np.median(self._now / np.maximum(self._searched, 1.0))
        change = self._now - gain * self._searched
        return int(np.count_nonzero(np.abs(change) > _CHANGED)) >= _LEAST_CELLS

    def searched(self) -> None:
        """The picture that was given last has been searched for faces."""
        self._searched = self._now


def _cells(image: BgrImage) -> Cells:
    height, width = image.shape[:2]
    across = max(1, width // (_CELLS[0] * _SAMPLES_A_CELL))
    down = max(1, height // (_CELLS[1] * _SAMPLES_A_CELL))
    thinned = np.ascontiguousarray(image[::down, ::across, 1])
    cells: Cells = cv2.resize(thinned, _CELLS, interpolation=cv2.INTER_AREA).astype(np.float32)
    return cells
