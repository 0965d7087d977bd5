"""How fit a face picture is for recognition: measured factors, ranges to pass, one score.

What each factor is, and which component of ISO/IEC 29794-5 it stands for: docs/quality.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from models.alignment import residuals, similarity_transforms
from models.occlusion.regions import inside
from models.types import BgrImage, Detections, Shapes
from shared.wire.quality import Pose, Quality, QualityFactor

Range = tuple[float, float]  # passes from ... to, both included

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
"""Every factor that is measured, with the range that its values can take."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Which factors must lie in which range. Factors that it does not name always pass."""

    name: str
    ranges: Mapping[str, Range] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for factor, (low, high) in self.ranges.items():
            if factor not in FACTORS:
                raise ValueError(f"there is no factor {factor!r}; there are {', '.join(FACTORS)}")
            if not low <= high:
                raise ValueError(f"{factor} passes from {low} to {high}, which is no range")
        object.__setattr__(self, "ranges", MappingProxyType(dict(self.ranges)))


OFF = Gate("off")

DOORWAY = Gate(
    "doorway",
    {
        "yaw": (-45.0, 45.0),
        "pitch": (-40.0, 40.0),
        "roll": (-40.0, 40.0),
        "interocular": (16.0, 65_535.0),
        "missing": (0.6, 1.0),
        "brightness": (-0.85, 0.85),
        "sharpness": (0.3, 1.0),
        "align_score": (0.75, 1.0),
        # A mask or dark glasses alone pass, although many such faces are not recognised: of drawn
        # masks `compact` misses every second one, EdgeFace-XS every sixth (decision 40). A miss
        # costs less than nobody being looked up.
        "occlusion_total": (0.0, 0.6),
    },
)

PASSPORT = Gate(
    "passport",
    {
        "yaw": (-10.0, 10.0),
        "pitch": (-15.0, 15.0),
        "roll": (-10.0, 10.0),
        "interocular": (60.0, 65_535.0),
        "size": (0.0, 0.85),
        "missing": (0.9, 1.0),
        "distance2center": (0.2, 1.0),
        "brightness": (-0.5, 0.5),
        "sharpness": (0.8, 1.0),
        "align_score": (0.85, 1.0),
        "mouth_open": (0.0, 0.4),
        "eyes_open": (0.5, 1.0),
        "occlusion_total": (0.0, 0.1),
        "occlusion_eye": (0.0, 0.1),
        "occlusion_nose": (0.0, 0.1),
        "occlusion_mouth": (0.0, 0.4),
        "occlusion_eyebrow": (0.0, 0.25),
        "occlusion_face_line": (0.0, 0.2),
    },
)


def is_lower_face_covered(quality: Quality) -> bool:
    """Whether mouth and nose are covered and the eyes are free, as by a mask.

    False where occlusion was not measured.
    """
    shares = {factor.name: factor.value for factor in quality.factors}
    return (
        shares.get("occlusion_mouth", 0.0) >= _MOUTH_COVERED
        and shares.get("occlusion_nose", 0.0) >= _NOSE_COVERED
        and shares.get("occlusion_eye", 1.0) < _EYES_FREE
    )


# Measured on 456 people: true of 85 in 100 masks that were drawn on pictures, of no bare face. With
# half the mouth and a tenth of the nose it is true of 87, and of 4 bare faces in 1,000: beards.
_MOUTH_COVERED, _NOSE_COVERED, _EYES_FREE = 0.7, 0.2, 0.5


def assess(
    image: BgrImage,
    detections: Detections,
    shapes: Shapes,
    poses: Sequence[Pose],
    chips: NDArray[np.uint8],
    gate: Gate = DOORWAY,
    *,
    eyes_open: NDArray[np.float32] | None = None,
    occlusion: Mapping[str, NDArray[np.float32]] | None = None,
) -> list[Quality]:
    """The quality of each of n faces of `image`, whose values the other arguments give in order.

    A factor that was not measured is left out, whatever the gate says of it: `mouth_open` without
    68 points, `eyes_open` without its model or where it is NaN, `occlusion_*` where they are not
    given (n,).
    """
    if len(detections) == 0:
        return []
    measured = _measure(image, detections, shapes, poses, chips)
    if eyes_open is not None:
        measured["eyes_open"] = eyes_open.astype(np.float64)
    if occlusion is not None:
        measured |= {name: shares.astype(np.float64) for name, shares in occlusion.items()}
    rows = zip(*(values.tolist() for values in measured.values()), strict=True)
    return [
        Quality(score=score, factors=_judge(dict(zip(measured, row, strict=True)), gate))
        for score, row in zip(_score(measured).tolist(), rows, strict=True)
    ]


def _judge(values: Mapping[str, float], gate: Gate) -> tuple[QualityFactor, ...]:
    factors = []
    for name, value in values.items():
        if not math.isnan(value):
            low, high = gate.ranges.get(name, FACTORS[name])
            factors.append(
                QualityFactor(
                    name=name, value=value, low=low, high=high, passed=low <= value <= high
                )
            )
    return tuple(factors)


def _measure(
    image: BgrImage,
    detections: Detections,
    shapes: Shapes,
    poses: Sequence[Pose],
    chips: NDArray[np.uint8],
) -> dict[str, NDArray[np.float64]]:
    """Each factor's values (n,), clipped to what it can take."""
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
    """Which share of each face lies inside a picture of size `frame` (width, height).

    The face is the part of the chip that it fills; detectors draw a box around what they see of
    it, which says less. `transforms` (n, 2, 3) lead from the picture to the chip.
    """
    width, height = frame
    share: NDArray[np.float64] = inside(transforms, (width, height), _FACE_GRID).mean(axis=1)
    return share


# Cheek to cheek and forehead to chin of the chip, in steps of 8 pixels.
_FACE_GRID = np.stack(np.meshgrid(np.arange(16, 97, 8), np.arange(24, 109, 8)), -1).reshape(-1, 2)


def _light_and_detail(
    chips: NDArray[np.uint8],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Brightness −1..1 and sharpness 0..1 of chips, of the face alone without its surroundings.

    Sharpness compares the finest detail (what a blur of 1.2 pixels takes away) with all contrast:
    lighting cancels out, and a small face that was enlarged is honestly blurred.
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


def _score(measured: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """One number 0..1 for choosing the best shot of a track.

    A product, so that no virtue makes up for a vice: it grows with sharpness, with size (levelling
    off, as more than 60 pixels between the eyes add little to a chip that has 35) and with
    frontality, and falls towards darkness, glare and the picture's edge.
    """
    turned = np.radians(np.stack([measured["yaw"], measured["pitch"]]))
    frontal = np.clip(np.cos(turned), 0, 1).prod(axis=0)
    large = 1 - np.exp(-measured["interocular"] / 25)
    light = 1 - measured["brightness"] ** 2
    score: NDArray[np.float64] = np.clip(
        frontal * large * measured["missing"] * np.sqrt(measured["sharpness"] * light), 0, 1
    )
    return score
