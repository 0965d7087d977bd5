"""The interface of detectors, and functions that they share."""

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from models.types import BgrImage, Detections

MAX_FACES = 1000
_MAX_SIDE = 1e6  # pixels


class Detector(Protocol):
    """A face detector. Several threads may call it."""

    def detect(self, image: BgrImage) -> Detections:
        """Returns the faces of `image`, best score first; an empty result is not an error."""
        ...


def suppress(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    max_overlap: float,
    points5: NDArray[np.float32] | None = None,
) -> Detections:
    """Non-maximum suppression: keeps the best of boxes that overlap by more than `max_overlap`.

    boxes (n, 4) x1 y1 x2 y2, scores (n,), points5 (n, 5, 2). Overlap is intersection over union.
    """
    detections = Detections(boxes, scores, points5)
    if len(detections) == 0:
        return detections
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxes(corners, scores, 0.0, max_overlap, top_k=MAX_FACES)  # type: ignore[arg-type]
    return detections.take(np.asarray(kept, dtype=np.intp).reshape(-1))


def with_area(detections: Detections) -> Detections:
    """Returns the boxes that can be cropped: finite, at least one pixel wide and high."""
    sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
    whole = ((sides >= 1) & (sides < _MAX_SIDE)).all(axis=1)
    return detections if whole.all() else detections.take(np.flatnonzero(whole))
