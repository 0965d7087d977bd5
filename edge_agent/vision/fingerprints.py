"""Fingerprints: a cheap comparison of pictures, to notice a scene cut or a changed face."""

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.types import BgrImage

_SCENE_SAMPLES: Final = 28  # along each side
_SCENE_SAME: Final = 0.4  # correlation: one scene stays well above, two scenes are near 0
_FACE_SAMPLES: Final = (12, 12)
_FACE_PIXELS: Final = 36
# Measured: faces from one frame of a film to the next stay above 0.8; of pairs of different people
# in like boxes, 98 of 100 are below.
_FACE_SAME: Final = 0.7
_FACE_SURE: Final = 0.85
# Of aligned faces without coarse light and shade: one face keeps above 0.85 from one frame to the
# next, and within a quarter of a second of talking above 0.45 (median 0.81); of 970 pairs of
# different people the most alike reach 0.71.
_ALIGNED_SAMPLES: Final = (28, 28)
_ALIGNED_SHADE: Final = 3.0  # samples
_ALIGNED_SURE: Final = 0.8
_FLAT: Final = 3.0  # grey levels: with less deviation there is only noise to compare

Fingerprint = NDArray[np.float32]  # (samples,) zero mean and unit length; empty for a flat area
NO_FINGERPRINT: Final[Fingerprint] = np.empty(0, np.float32)


class SceneCutDetector:
    """Notices when a film cuts to another scene, but not a change of light. One for each camera."""

    def __init__(self) -> None:
        self._previous: Fingerprint = NO_FINGERPRINT

    def is_cut(self, image: BgrImage) -> bool:
        """Whether `image` shows another scene than the previous picture."""
        height, width = image.shape[:2]
        down, across = max(1, height // _SCENE_SAMPLES), max(1, width // _SCENE_SAMPLES)
        # Samples, not averages: they cost microseconds, whatever the size of the picture.
        now = _fingerprint(image[down // 2 :: down, across // 2 :: across, 1])
        previous, self._previous = self._previous, now
        return correlation(previous, now) < _SCENE_SAME


def face_fingerprint(image: BgrImage, box: tuple[float, float, float, float]) -> Fingerprint:
    """The fingerprint of a face in `box` (x1 y1 x2 y2, pixels) of a frame."""
    height, width = image.shape[:2]
    x1, y1 = min(max(0, round(box[0])), width - 1), min(max(0, round(box[1])), height - 1)
    face = image[y1 : max(y1 + 1, round(box[3])), x1 : max(x1 + 1, round(box[2]))]
    step = max(1, min(face.shape[:2]) // _FACE_PIXELS)  # a large face is sampled
    green = np.ascontiguousarray(face[::step, ::step, 1])
    return _fingerprint(cv2.resize(green, _FACE_SAMPLES, interpolation=cv2.INTER_AREA))


def may_be_same_face(first: Fingerprint, second: Fingerprint) -> bool:
    """Whether the fingerprints of two frames in a row may be of one face."""
    return correlation(first, second) >= _FACE_SAME


def is_surely_same_face(first: Fingerprint, second: Fingerprint) -> bool:
    """Whether two fingerprints are too much alike for two people; False for an empty one."""
    return bool(len(first)) and correlation(first, second) >= _FACE_SURE


def aligned_fingerprint(chip: BgrImage) -> Fingerprint:
    """The fingerprint of an aligned face (112, 112, 3). It does not depend on the face's box."""
    gray = cv2.cvtColor(chip[16:104, 16:96], cv2.COLOR_BGR2GRAY).astype(np.float32)
    small = cv2.resize(gray, _ALIGNED_SAMPLES, interpolation=cv2.INTER_AREA)
    return _fingerprint(small - cv2.GaussianBlur(small, (0, 0), _ALIGNED_SHADE))


def is_surely_same_aligned(first: Fingerprint, second: Fingerprint) -> bool:
    """Whether two aligned fingerprints, at any two times, are surely of one face."""
    return bool(len(first) and len(second)) and correlation(first, second) >= _ALIGNED_SURE


def is_surely_different_aligned(first: Fingerprint, second: Fingerprint) -> bool:
    """Whether two aligned fingerprints surely differ; False for an empty one."""
    return bool(len(first) and len(second)) and correlation(first, second) < _ALIGNED_SURE


def _fingerprint(area: NDArray[Any]) -> Fingerprint:
    """The fingerprint of an area; empty for one without content, as a flat wall."""
    samples: Fingerprint = area.astype(np.float32).ravel()
    samples -= samples.mean()
    length = float(np.sqrt(samples.dot(samples)))
    if length < _FLAT * len(samples) ** 0.5:
        return samples[:0]
    samples /= length
    return samples


def correlation(first: Fingerprint, second: Fingerprint) -> float:
    """Pearson's correlation of two fingerprints; 1 where one is empty."""
    if len(first) != len(second) or not len(first):
        return 1.0
    return float(first.dot(second))
