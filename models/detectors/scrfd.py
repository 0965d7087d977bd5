"""SCRFD (Guo et al., 2021), with five points: InsightFace's detector."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models.detectors.base import suppress, with_area
from models.onnx_session import Session
from models.preprocessing import InputSpec, Layout
from models.types import BgrImage, Detections

_STRIDES = (8, 16, 32)
_ANCHORS = 2  # at each cell of each stride


class Scrfd:
    """Anchor points at three strides, each with a score, distances to a box and five points."""

    def __init__(
        self,
        session: Session,
        spec: InputSpec,
        *,
        min_score: float = 0.5,
        max_overlap: float = 0.4,
    ) -> None:
        self._session = session
        self._layout = Layout(spec)
        self._size = spec.size
        self._min_score = min_score
        self._max_overlap = max_overlap

    def detect(self, image: BgrImage) -> Detections:
        canvas, scale = self.letterbox(image)
        outputs = self._session.run(self._layout.batch([canvas]))
        scores, boxes, points = decode(outputs, self._size, self._min_score)
        return with_area(suppress(boxes / scale, scores, self._max_overlap, points / scale))

    def letterbox(self, image: BgrImage) -> tuple[BgrImage, np.float32]:
        """The picture at the top left of the graph's input, and by how much it was scaled."""
        width, height = self._size
        scale = min(width / image.shape[1], height / image.shape[0])
        inner = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        canvas = np.zeros((height, width, 3), np.uint8)
        canvas[: inner[1], : inner[0]] = cv2.resize(image, inner)
        return canvas, np.float32(scale)


def decode(
    outputs: Sequence[NDArray[np.float32]], size: tuple[int, int], min_score: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Scores (n,), boxes (n, 4) and points (n, 5, 2), in pixels of the graph's input.

    `outputs`: for strides 8, 16 and 32 the scores, then the boxes' distances, then the points'
    offsets, in units of the stride, row by row with two anchors a cell.
    """
    rows = [output.reshape(-1, output.shape[-1]) for output in outputs]
    scores, boxes, points = [], [], []
    for place, stride in enumerate(_STRIDES):
        likely = np.flatnonzero(rows[place][:, 0] >= min_score)
        cell = likely // _ANCHORS
        columns = size[0] // stride
        centres = np.stack([cell % columns, cell // columns], axis=1).astype(np.float32) * stride
        reach = rows[place + 3][likely] * stride
        offsets = rows[place + 6][likely].reshape(-1, 5, 2) * stride
        scores.append(rows[place][likely, 0])
        boxes.append(np.concatenate([centres - reach[:, :2], centres + reach[:, 2:]], axis=1))
        points.append(centres[:, np.newaxis] + offsets)
    return np.concatenate(scores), np.concatenate(boxes), np.concatenate(points)
