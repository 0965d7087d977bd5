"""Whether anything moves before a camera: cheap enough to be asked of every frame."""

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
_LEARN_STILL: Final = 1 / 64  # share of a frame in what is known of each cell's noise ...
_LEARN_MOVED: Final = 1 / 512  # ... where it may be motion
_OUTLIER: Final = 3.0  # a cell is not learned to be noisier by more than this at a time
_NOISIEST: Final = 4.0  # times the picture's: lamps and infra-red light are brightest in the middle
_SIGMA: Final = 1.4826  # standard deviation of a normal distribution over its median deviation

Cells = NDArray[np.float32]  # (45, 80) grey levels


class MotionWatch:
    """Compares pictures with the last one that was searched for faces. One camera each.

    Not with the picture before: what changes slowly adds up until it is seen. A change counts when
    it stands out from the noise of the camera, which is measured all the time: of the whole picture
    as a median, which whoever moves in it does not disturb, and of each cell beyond that.
    """

    def __init__(self) -> None:
        self._searched: Cells | None = None
        self._now: Cells | None = None
        self._fine, self._coarse = _Noise(), _Noise()

    def moved(self, image: BgrImage) -> bool:
        """Whether `image` shows something else than the picture that was searched last."""
        self._now = _cells(image)
        if self._searched is None:
            return True
        # Other light, or a camera that adapts to it, is no motion: most cells tell by how much.
        gain = np.median(self._now / np.maximum(self._searched, 1.0))
        change = (self._now - gain * self._searched).astype(np.float32)
        moved = self._fine.is_exceeded(change)
        # Noise of neighbours differs, a body's change does not: their mean shows it in the dark.
        coarse: Cells = cv2.blur(change, (3, 3)).astype(np.float32)
        return self._coarse.is_exceeded(coarse) or moved

    def searched(self) -> None:
        """The picture that was given last has been searched for faces."""
        self._searched = self._now


class _Noise:
    """What is known of the noise of cells, learned from changes between pictures."""

    def __init__(self) -> None:
        self._medians: deque[float] = deque(maxlen=_WINDOW)
        self._cells: Cells | None = None  # mean deviation of each cell

    def is_exceeded(self, change: Cells) -> bool:
        """Whether a change is more than noise, of which more is known afterwards."""
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
