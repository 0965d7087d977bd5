"""Landmarks: 68 points in iBUG order, and the five that alignment needs."""

import numpy as np
from numpy.typing import NDArray

from models.onnx_session import Session
from models.preprocessing import InputSpec, Layout
from models.types import BgrImage
from models.warping import stretch


class Landmarks68:
    """A regression of 68 points from a gray crop of the detector's box."""

    def __init__(self, session: Session, spec: InputSpec) -> None:
        self._session = session
        self._layout = Layout(spec)
        self._size = spec.size

    def locate(self, image: BgrImage, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns points (n, 68, 2) in pixels of `image` for boxes (n, 4), in one run."""
        if len(boxes) == 0:
            return np.empty((0, 68, 2), np.float32)
        crops = [stretch(image, box, self._size) for box in boxes]
        (fractions,) = self._session.run_each(self._layout.batch(crops))
        corners, sides = boxes[:, np.newaxis, :2], (boxes[:, 2:] - boxes[:, :2])[:, np.newaxis]
        points: NDArray[np.float32] = corners + fractions.reshape(-1, 68, 2) * sides
        return points


def five_of_68(points68: NDArray[np.float32]) -> NDArray[np.float32]:
    """Left eye, right eye, nose tip, left and right mouth corner (n, 5, 2), as seen.

    An eye's centre is the mean of its four lid points; a mouth corner lies between the outer and
    the inner lip's corner.
    """
    five: NDArray[np.float32] = _FIVE_OF_68 @ points68
    return five


_GROUPS = ((37, 38, 40, 41), (43, 44, 46, 47), (30,), (48, 60), (54, 64))


def _averaging() -> NDArray[np.float32]:
    weights = np.zeros((len(_GROUPS), 68), np.float32)
    for row, group in enumerate(_GROUPS):
        weights[row, list(group)] = 1 / len(group)
    return weights


_FIVE_OF_68 = _averaging()
