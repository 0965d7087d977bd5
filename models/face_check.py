"""Computes how certain it is that a detection is a face, and not a cup, a cat or a drawing.

The detector finds a face again, with a high score, when the picture is cut closer or wider, moved
or mirrored. The points of a face stay at their places when its box is moved a little. Other things
lose their score or move their points. Drawings have areas of equal pixels that skin does not have.
Weights and figures: decision 34.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from models.detectors.base import Detector
from models.landmarks import Landmarks68
from models.types import BgrImage

_WIDTH, _HEIGHT = 320, 240  # pixels of a view
_VIEWS = (  # height of the view in sides of the box, shift in heights of the view, mirrored
    (1.6, 0.0, False),
    (2.2, 0.0, False),
    (3.0, 0.0, False),
    (4.2, 0.0, False),
    (2.2, 0.0, True),
    (2.2, 0.1, False),
)
_LEAST_OVERLAP = 0.4  # of the face in a view with what is found there, as IoU
_LOWEST = 2  # views that count most: those where it is found least
_MOVES = (  # of the box, in its sides, and its scale
    (0.0, 0.0, 1.15),
    (0.0, 0.0, 0.88),
    (0.07, 0.0, 1.0),
    (-0.07, 0.0, 1.0),
    (0.0, 0.07, 1.0),
    (0.0, -0.07, 1.0),
)
_MOST_SHIFT = 0.12  # of the points, in sides of the box: more says no more

_PART = (64, 32)  # pixels, width and height, of the upper half of a face: no mask is there
_EVEN = 0.5  # grey levels from one pixel to the next: less is even
_EXPOSED = (5, 250)  # grey levels: what is darker or brighter may be even in a photograph too
_MOST_EVEN, _EVENNESS = 0.25, 15.0  # share of even pixels that speaks against nothing; its weight

# Logistic regression on one half of the people and of the pictures without people; 0.5 lies where
# faces with masks drawn on them still pass.
_MEAN, _LOW, _SHIFT, _SCORE, _OFFSET = 5.24, 5.66, -58.3, 20.47, -26.24


def certainty(
    detector: Detector,
    landmarks: Landmarks68 | None,
    image: BgrImage,
    box: NDArray[np.float32],
    score: float,
    points5: NDArray[np.float32],
    *,
    clear_score: float,
) -> float:
    """Returns the certainty, 0 to 1, that `box` (4,) shows a face.

    `score` is what the detector gave it, `clear_score` what the detector gives clear faces;
    `points5` (5, 2) are needed where there is no model of 68 points.
    """
    side = max(math.sqrt(float((box[2:] - box[:2]).prod())), 1.0)
    scores, shifts = [], []
    for view in _VIEWS:
        value, points = _look(detector, image, box, side, view)
        scores.append(min(value / clear_score, 1.0))
        if points is not None:
            shifts.append(float(np.linalg.norm(points - points5, axis=1).mean()) / side)
    if landmarks is not None:
        shift = _moved_points(landmarks, image, box) / side
    else:
        shift = sum(shifts) / len(shifts) if shifts else _MOST_SHIFT
    low = sorted(scores)[:_LOWEST]
    logit = (
        _MEAN * sum(scores) / len(scores)
        + _LOW * sum(low) / len(low)
        + _SHIFT * min(shift, _MOST_SHIFT)
        + _SCORE * min(score / clear_score, 1.0)
        + _OFFSET
        - _EVENNESS * max(_even_share(image, box) - _MOST_EVEN, 0.0)
    )
    return 1 / (1 + math.exp(-logit))


def _even_share(image: BgrImage, box: NDArray[np.float32]) -> float:
    """Returns the share of pixels in the upper half of a face that equal their neighbours."""
    left, top, right, bottom = (round(float(side)) for side in box)
    left, top = max(left, 0), max(top, 0)
    part = image[top : (top + bottom) // 2, left:right]
    if part.size == 0:
        return 0.0
    gray = cv2.cvtColor(part, cv2.COLOR_BGR2GRAY)
    gray = cv2.resize(gray, _PART, interpolation=cv2.INTER_AREA).astype(np.float32)
    change = np.hypot(np.diff(gray, axis=1)[:-1], np.diff(gray, axis=0)[:, :-1])
    here = gray[:-1, :-1]
    exposed = (here > _EXPOSED[0]) & (here < _EXPOSED[1])
    return float(((change < _EVEN) & exposed).mean())


def _look(
    detector: Detector,
    image: BgrImage,
    box: NDArray[np.float32],
    side: float,
    view: tuple[float, float, bool],
) -> tuple[float, NDArray[np.float32] | None]:
    """Returns the face's score in one view (0 if not detected) and its points there, if any."""
    wide, shift, mirrored = view
    scale = _HEIGHT / (max(side, 1.0) * wide)
    centre = (box[:2] + box[2:]) / 2 + np.float32(shift * side * wide)
    move = np.array([_WIDTH, _HEIGHT], np.float64) / 2 - centre * scale
    matrix = np.array([[scale, 0.0, move[0]], [0.0, scale, move[1]]])
    part: BgrImage = cv2.warpAffine(  # type: ignore[assignment]
        image,
        matrix,
        (_WIDTH, _HEIGHT),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(127, 127, 127),
    )
    corners = box.reshape(2, 2) * scale + move
    place = corners.reshape(4)
    if mirrored:
        part = np.ascontiguousarray(part[:, ::-1])
        place = np.array([_WIDTH - place[2], place[1], _WIDTH - place[0], place[3]])
    detections = detector.detect(part)
    overlaps = _overlaps(detections.boxes, place)
    rows = np.flatnonzero(overlaps > _LEAST_OVERLAP)
    if len(rows) == 0:
        return 0.0, None
    best = int(rows[np.argmax(detections.scores[rows])])
    points = None
    if detections.points5 is not None and not mirrored:
        points = ((detections.points5[best] - move) / scale).astype(np.float32)
    return float(detections.scores[best]), points


def _overlaps(boxes: NDArray[np.float32], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the intersection over union of boxes (n, 4) with one box."""
    sides = np.minimum(boxes[:, 2:], place[2:]) - np.maximum(boxes[:, :2], place[:2])
    shared = np.maximum(sides, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (place[2:] - place[:2]).prod()
    overlaps: NDArray[np.float64] = shared / (areas - shared)
    return overlaps


def _moved_points(landmarks: Landmarks68, image: BgrImage, box: NDArray[np.float32]) -> float:
    """Returns the mean distance in pixels that the 68 points move if the box moves a little."""
    centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    boxes = [box]
    for right, down, scale in _MOVES:
        middle = centre + np.array([right, down], np.float32) * sides
        boxes.append(np.concatenate([middle - sides * scale / 2, middle + sides * scale / 2]))
    points = landmarks.locate(image, np.stack(boxes).astype(np.float32))
    return float(np.linalg.norm(points[1:] - points[0], axis=2).mean())
