"""YuNet (Wu et al., 2023), with five points: decoded and run by OpenCV itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.detectors.base import with_area
from models.types import BgrImage, Detections
from shared.errors import PackError


class YuNet:
    """OpenCV's FaceDetectorYN. It keeps state between calls, hence the lock."""

    def __init__(
        self,
        path: Path,
        *,
        longest_side: int = 640,
        min_score: float = 0.6,
        max_overlap: float = 0.3,
    ) -> None:
        """`longest_side`: larger pictures are reduced to it first (pixels)."""
        try:
            with _only_errors():
                self._detector = cv2.FaceDetectorYN.create(
                    str(path), "", (320, 320), min_score, max_overlap
                )
        except cv2.error as error:
            raise PackError(f"{path.name} is not a graph that can be run: {error}") from error
        self._longest_side = longest_side
        self._lock = threading.Lock()

    def detect(self, image: BgrImage) -> Detections:
        height, width = image.shape[:2]
        shrink = min(1.0, self._longest_side / max(width, height))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = image if size == (width, height) else cv2.resize(image, size)
        with self._lock:
            self._detector.setInputSize(size)
            _, rows = self._detector.detect(small)
        faces = np.empty((0, 15), np.float32) if rows is None else rows.astype(np.float32)
        return with_area(detections_of(faces, width / size[0], height / size[1]))


@contextmanager
def _only_errors() -> Iterator[None]:
    """OpenCV 5 warns on standard error that its engine has no targets: nothing can be done."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def detections_of(rows: NDArray[np.float32], right: float, down: float) -> Detections:
    """What FaceDetectorYN's rows (n, 15) mean: x, y, width, height, five points, score.

    `right` and `down` scale to the source picture. OpenCV names the points as the person sees
    them, right eye first, which is the left one in the picture, as here.
    """
    back = np.array([right, down], np.float32)
    corners = rows[:, :2] * back
    boxes = np.concatenate([corners, corners + rows[:, 2:4] * back], axis=1)
    order = np.argsort(-rows[:, 14], kind="stable")
    detections = Detections(boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2) * back)
    return detections.take(order)
