"""Cheap looks at whether a picture still shows the same: a scene cut, another face in one place."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.types import BgrImage

_SCENE_SAMPLES: Final = 28  # along each side
_SCENE_SAME: Final = 0.4  # correlation: one scene stays well above, two scenes are near 0
_FACE_SAMPLES: Final = 12
_FACE_SAME: Final = 0.4
_FLAT: Final = 3.0  # grey levels: with less deviation there is only noise to compare

Fingerprint = NDArray[np.float32]  # (samples,) zero mean and unit length; empty for a flat area


def fingerprint(image: BgrImage, box: tuple[float, float, float, float], side: int) -> Fingerprint:
    """About `side` × `side` samples of the green channel inside `box` (x1 y1 x2 y2, pixels).

    Samples, not averages: they cost microseconds, whatever the size of the picture. Of an area
    without content nothing can be told, and the fingerprint is empty.
    """
    height, width = image.shape[:2]
    x1, y1 = max(0, int(box[0])), max(0, int(box[1]))
    x2, y2 = min(width, int(box[2])), min(height, int(box[3]))
    across, down = max(1, (x2 - x1) // side), max(1, (y2 - y1) // side)
    grid = image[y1 + down // 2 : y2 : down, x1 + across // 2 : x2 : across, 1]
    samples = grid[:side, :side].astype(np.float32).ravel()
    if not len(samples):
        return samples
    samples -= samples.mean()
    length = float(np.sqrt(samples.dot(samples)))
    if length < _FLAT * len(samples) ** 0.5:
        return samples[:0]
    samples /= length
    return samples


def _correlation(first: Fingerprint, second: Fingerprint) -> float:
    """Pearson's correlation; 1 where nothing can be told."""
    if len(first) != len(second) or not len(first):
        return 1.0
    return float(first.dot(second))


class SceneWatch:
    """Notices when a film cuts to another scene; other light is none. One camera each."""

    def __init__(self) -> None:
        self._before: Fingerprint = np.empty(0, np.float32)

    def cut(self, image: BgrImage) -> bool:
        """Whether `image` shows another scene than the picture that was given before."""
        whole = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
        now = fingerprint(image, whole, _SCENE_SAMPLES)
        before, self._before = self._before, now
        return _correlation(before, now) < _SCENE_SAME


def face_fingerprint(image: BgrImage, box: tuple[float, float, float, float]) -> Fingerprint:
    """The fingerprint of a face, to be compared with that of the next frame."""
    return fingerprint(image, box, _FACE_SAMPLES)


def may_be_same_face(before: Fingerprint, after: Fingerprint) -> bool:
    """Whether fingerprints of successive frames may be of one face; False asks for a closer look.

    Samples of a face that grew or moved to the picture's edge may differ in number: then nothing
    is told.
    """
    return _correlation(before, after) >= _FACE_SAME
