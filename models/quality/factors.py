"""The quality factors of a face picture: their names, ranges and measurement.

docs/quality.md explains each factor and names its component of ISO/IEC 29794-5.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from models.alignment import residuals, similarity_transforms
from models.occlusion.regions import inside
from models.types import BgrImage, Detections, Shapes
from shared.wire.quality import Pose

Range = tuple[float, float]  # lowest and highest value, both included

FACTORS: Mapping[str, Range] = MappingProxyType(
    {
        "yaw": (-180.0, 180.0),  # degrees
        "pitch": (-180.0, 180.0),
        "roll": (-180.0, 180.0),
        "interocular": (0.0, 65_535.0),  # pixels between the eyes
        "size": (0.0, 1.0),  # the box's share of the picture's area
        "missing": (0.0, 1.0),  # share of the face inside the picture: 1 is all of it
        "distance2center": (0.0, 1.0),  # 0 in a corner, 1 in the picture's centre
        "brightness": (-1.0, 1.0),  # dark to bright, 0 is mid grey
        "sharpness": (0.0, 1.0),
        "align_score": (0.0, 1.0),  # how well the five points fit a face's
        "mouth_open": (0.0, 2.0),  # opening of the inner lips over their width
        "eyes_open": (0.0, 1.0),  # the less open eye; of stills, where the face is large enough
        "detection": (0.0, 1.0),  # the detector's score
        "occlusion_total": (0.0, 1.0),  # covered share of the face, from its eyebrows to its jaw
        "occlusion_eye": (0.0, 1.0),  # the more covered one
        "occlusion_nose": (0.0, 1.0),
        "occlusion_mouth": (0.0, 1.0),
        "occlusion_eyebrow": (0.0, 1.0),  # the more covered one
        "occlusion_face_line": (0.0, 1.0),  # along both cheeks and the jaw
    }
)
"""Every factor that is measured, with the range of its values."""


def measure(
    image: BgrImage,
    detections: Detections,
    shapes: Shapes,
    poses: Sequence[Pose],
    chips: NDArray[np.uint8],
) -> dict[str, NDArray[np.float64]]:
    """Returns each factor's values (n,), clipped to its range."""
    frame = np.array([image.shape[1], image.shape[0]], np.float64)
    corners = np.clip(detections.boxes, 0, np.tile(frame, 2))
    off_centre = (detections.boxes[:, 2:] + detections.boxes[:, :2] - frame) / 2
    transforms = similarity_transforms(shapes.points5)
    brightness, sharpness = _light_and_detail(chips)
    eyes = shapes.points5[:, 1] - shapes.points5[:, 0]
    angles = np.array([(pose.yaw, pose.pitch, pose.roll) for pose in poses])
    values = {
        "yaw": angles[:, 0],
        "pitch": angles[:, 1],
        "roll": angles[:, 2],
        "interocular": np.hypot(eyes[:, 0], eyes[:, 1]),
        "size": (corners[:, 2:] - corners[:, :2]).prod(axis=1) / frame.prod(),
        "missing": _share_inside(transforms, frame),
        "distance2center": 1 - np.hypot(*off_centre.T) / np.hypot(*(frame / 2)),
        "brightness": brightness,
        "sharpness": sharpness,
        "align_score": 1 - residuals(shapes.points5, transforms) / _REFERENCE_INTEROCULAR,
        "detection": detections.scores,
    }
    if shapes.points68 is not None:
        values["mouth_open"] = _mouth_open(shapes.points68)
    lows, highs = np.array([FACTORS[name] for name in values]).T[..., np.newaxis]
    clipped = np.clip(np.stack(list(values.values())), lows, highs, dtype=np.float64)
    return dict(zip(values, clipped, strict=True))


_REFERENCE_INTEROCULAR = 35.24  # pixels of the chip


def _share_inside(
    transforms: NDArray[np.float64], frame: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns the share of each face that lies inside a picture of size `frame` (width, height).

    The face is the part of the chip that it fills. A detector's box says less: it surrounds only
    the visible part. `transforms` (n, 2, 3) lead from the picture to the chip.
    """
    width, height = frame
    share: NDArray[np.float64] = inside(transforms, (width, height), _FACE_GRID).mean(axis=1)
    return share


# Cheek to cheek and forehead to chin of the chip, in steps of 8 pixels.
_FACE_GRID = np.stack(np.meshgrid(np.arange(16, 97, 8), np.arange(24, 109, 8)), -1).reshape(-1, 2)


def _light_and_detail(
    chips: NDArray[np.uint8],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns brightness −1..1 and sharpness 0..1 of chips, of the face without its surroundings.

    Sharpness compares the finest detail (what a blur of 1.2 pixels takes away) with all contrast:
    lighting cancels out, and a small face that was enlarged counts as blurred.
    """
    brightness, sharpness = np.empty(len(chips)), np.empty(len(chips))
    for row, chip in enumerate(chips):
        gray = cv2.cvtColor(chip[28:104, 22:90], cv2.COLOR_BGR2GRAY).astype(np.float32)
        mean, spread = cv2.meanStdDev(gray)
        _, detail = cv2.meanStdDev(gray - cv2.GaussianBlur(gray, (0, 0), 1.2))
        brightness[row] = mean[0, 0] / 127.5 - 1
        ratio = detail[0, 0] / max(spread[0, 0], 1.0)
        sharpness[row] = 1 - np.exp(-((ratio / _SHARP_RATIO) ** 2))
    return brightness, sharpness


# Measured: sharp portraits have a ratio of 0.17 and more (sharpness 0.88), faces with 18 pixels
# between the eyes, whose templates are at cosine 0.95 to the sharp ones', 0.14 (0.77), and faces
# blurred until the cosine falls to 0.74 have 0.07 (0.31).
_SHARP_RATIO = 0.115


def _mouth_open(points68: NDArray[np.float32]) -> NDArray[np.float64]:
    gaps = np.linalg.norm(points68[:, [61, 62, 63]] - points68[:, [67, 66, 65]], axis=2)
    widths = np.linalg.norm(points68[:, 64] - points68[:, 60], axis=1)
    opening: NDArray[np.float64] = gaps.mean(axis=1) / np.maximum(widths, 1e-3)
    return opening
