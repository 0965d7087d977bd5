"""Motion detection before a camera, cheap enough for every frame."""

from collections import deque
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.types import BgrImage

_CELLS: Final = (80, 45)  # the picture, thinned out to so many cells
_SAMPLES_A_CELL: Final = 4  # along each side: their mean has a quarter of the sensor's noise
_CHANGED: Final = 8.0  # grey levels: daylight's noise and video compression stay below
_LEAST_CELLS: Final = 3  # a face of a twentieth of the picture's width covers twelve
_BEYOND_NOISE: Final = 5.0  # standard deviations of a cell's noise
_WINDOW: Final = 64  # frames from whose median the noise is known
_LEARN_STILL: Final = 1 / 64  # share of a frame in the mean noise of each cell ...
_LEARN_MOVED: Final = 1 / 512  # ... where it may be motion
_OUTLIER: Final = 3.0  # a larger change counts as this many times the noise of its cell
_NOISIEST: Final = 4.0  # times the picture's: lamps and infra-red light are brightest in the middle
_SIGMA: Final = 1.4826  # standard deviation of a normal distribution over its median deviation

Cells = NDArray[np.float32]  # (45, 80) grey levels


class MotionDetector:
    """Compares pictures with the last one that was searched for faces. One for each camera.

    Slow changes add up until they exceed the limit. The limit follows the noise of the camera,
    which is measured all the time: of the whole picture as a median, which a moving person does
    not change, and of each cell beyond that.
    """

    def __init__(self) -> None:
        self._reference: Cells | None = None
        self._newest: Cells | None = None
        self._fine, self._coarse = _Noise(), _Noise()

    def has_moved(self, image: BgrImage) -> bool:
        """Whether `image` differs from the reference picture."""
        self._newest = _cells(image)
        if self._reference is None:
            return True
        # A change of light, or a camera that adapts to it, is no motion: most cells change alike.
        gain = np.median(self._newest / np.maximum(self._reference, 1.0))
        change = (self._newest - gain * self._reference).astype(np.float32)
        moved = self._fine.is_exceeded(change)
        # The noise of neighbours differs, the change by a body does not: their mean shows it.
        coarse: Cells = cv2.blur(change, (3, 3)).astype(np.float32)
        return self._coarse.is_exceeded(coarse) or moved

    def set_reference(self) -> None:
        """Makes the newest picture the reference, because it was searched for faces."""
        self._reference = self._newest


class _Noise:
    """The noise of cells, learned from changes between pictures."""

    def __init__(self) -> None:
        self._medians: deque[float] = deque(maxlen=_WINDOW)
        self._cells: Cells | None = None  # mean deviation of each cell

    def is_exceeded(self, change: Cells) -> bool:
        """Whether a change is more than noise. It also updates what is known of the noise."""
        deviation: Cells = np.abs(change)
        self._medians.append(float(np.median(deviation)))
        overall = float(np.median(self._medians))
        if self._cells is None:
            self._cells = np.full_like(deviation, overall)
        local = np.clip(self._cells, overall, max(overall, 1e-6) * _NOISIEST)
        limits = np.maximum(_CHANGED, _BEYOND_NOISE * _SIGMA * local)
        exceeded = int(np.count_nonzero(deviation > limits)) >= _LEAST_CELLS
        seen = np.minimum(deviation, _OUTLIER * local)
        local += (_LEARN_MOVED if exceeded else _LEARN_STILL) * (seen - local)
        self._cells = local
        return exceeded


def _cells(image: BgrImage) -> Cells:
    height, width = image.shape[:2]
    across = max(1, width // (_CELLS[0] * _SAMPLES_A_CELL))
    down = max(1, height // (_CELLS[1] * _SAMPLES_A_CELL))
    thinned = np.ascontiguousarray(image[::down, ::across, 1])
    cells: Cells = cv2.resize(thinned, _CELLS, interpolation=cv2.INTER_AREA).astype(np.float32)
    return cells
