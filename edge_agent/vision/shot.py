"""Shots: one picture of one tracked face, with all data to judge it later."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.camera import Frame
from models.types import BgrImage, Detections, Shapes
from shared.wire.quality import Quality

_CONTEXT: Final = 3.0  # times the box: what pose, liveness and thumbnail need around it
_THUMBNAIL_MARGIN: Final = 1.7
_THUMBNAIL_SIDE: Final = 192
_THUMBNAIL_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One face in one frame. It keeps the part of the frame around the face."""

    captured_at: datetime  # UTC
    time_s: float  # stream time
    frame_size: tuple[int, int]  # width, height in pixels of the searched frame ...
    origin: tuple[int, int]  # ... which begins here in the camera's whole upright picture ...
    source_size: tuple[int, int]  # ... of this width and height
    detection: Detections  # this face alone, pixels of the frame
    shapes: Shapes  # this face alone, pixels of the frame
    chip: BgrImage  # (112, 112, 3) aligned
    quality: Quality  # with the pose that follows from the points
    scene: BgrImage  # the part of the frame around the face
    scene_boxes: NDArray[np.float32]  # (1, 4) x1 y1 x2 y2, pixels of the scene

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x1 y1 x2 y2, pixels of the camera's whole upright picture."""
        x1, y1, x2, y2 = self.detection.moved(*self.origin).boxes[0].tolist()
        return x1, y1, x2, y2

    @property
    def scene_points5(self) -> NDArray[np.float32]:
        """The five points (1, 5, 2), pixels of the scene."""
        return self.shapes.points5 + (self.scene_boxes - self.detection.boxes)[:, np.newaxis, :2]


def take_shot(
    frame: Frame, detection: Detections, shapes: Shapes, chip: BgrImage, quality: Quality
) -> Shot:
    """A shot of one face; `detection` and `shapes` (pixels of the frame) hold that face alone."""
    x1, y1, x2, y2 = _window(detection.boxes[0], frame.size, _CONTEXT)
    return Shot(
        captured_at=frame.captured_at,
        time_s=frame.time_s,
        frame_size=frame.size,
        origin=frame.origin,
        source_size=frame.source_size,
        detection=detection,
        shapes=shapes,
        chip=chip.copy(),  # a row of a batch would keep the whole batch alive
        quality=quality,
        scene=frame.image[y1:y2, x1:x2].copy(),
        scene_boxes=detection.boxes - np.array([x1, y1, x1, y1], np.float32),
    )


def thumbnail(shot: Shot) -> bytes | None:
    """A JPEG of the face with a margin, at most 64 KiB; None where that is not possible."""
    height, width = shot.scene.shape[:2]
    x1, y1, x2, y2 = _window(shot.scene_boxes[0], (width, height), _THUMBNAIL_MARGIN)
    part = shot.scene[y1:y2, x1:x2]
    shrink = _THUMBNAIL_SIDE / max(part.shape[:2])
    if shrink < 1:
        size = tuple(max(1, round(side * shrink)) for side in (x2 - x1, y2 - y1))
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    for jpeg_quality in (85, 60, 30):
        done, jpeg = cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
        if done and jpeg.size <= _THUMBNAIL_BYTES:
            return jpeg.tobytes()
    return None


def _window(
    box: NDArray[np.float32], size: tuple[int, int], factor: float
) -> tuple[int, int, int, int]:
    """The box enlarged about its centre and moved inside a picture of this size, as whole pixels.

    It is moved, not cut: a model that does the same with a smaller factor gets the same pixels
    from the scene as from the whole picture.
    """
    edges = []
    for low, high, limit in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        side = min(float(high - low) * factor, float(limit))
        start = min(max((float(low) + float(high) - side) / 2, 0.0), limit - side)
        first = min(int(start), limit - 1)
        edges.append((first, max(first + 1, min(limit, int(np.ceil(start + side))))))
    (x1, x2), (y1, y2) = edges
    return x1, y1, x2, y2
