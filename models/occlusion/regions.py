"""The parts of an aligned face, and what of a picture's face lies outside the picture.

Regions lie where alignment brings the features of a face that looks at the camera: fixed places of
the chip, drawn around the mean of the 68 points of some hundred aligned faces. Landmarks of the
face itself would follow a turned head better, but of a covered face they are guesses.
"""

from collections.abc import Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from models.alignment import SIDE

CELLS = 28  # along each side of a map of the chip
_CELL = SIDE // CELLS  # pixels of the chip

_Points = tuple[tuple[float, float], ...]


def _ellipse(x: float, y: float, half_width: float, half_height: float) -> _Points:
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return tuple(zip(x + half_width * np.cos(turns), y + half_height * np.sin(turns), strict=True))


def _mirrored(points: _Points) -> _Points:
    return tuple((SIDE - x, y) for x, y in reversed(points))


# From beside the left eye down to the chin, which lies below the chip.
_JAW: _Points = (
    (18, 48),
    (18.5, 60),
    (20, 74),
    (23, 86),
    (28, 97),
    (35, 107),
    (44, 114),
    (56, 117),
)
_INNER_JAW: _Points = ((28, 48), (29, 62), (31, 74), (34, 84), (39, 93), (45, 101), (56, 105))

POLYGONS: Mapping[str, tuple[_Points, ...]] = MappingProxyType(
    {
        "left_eye": (_ellipse(38, 51.5, 10, 6),),
        "right_eye": (_ellipse(74, 51.5, 10, 6),),
        "left_eyebrow": (_ellipse(37, 40.5, 13, 4.5),),
        "right_eyebrow": (_ellipse(75, 40.5, 13, 4.5),),
        "nose": (((52, 54), (60, 54), (67, 78), (63, 83), (49, 83), (45, 78)),),
        "mouth": (_ellipse(56, 93, 17, 8),),
        "face_line": (_JAW + _INNER_JAW[::-1], _mirrored(_JAW) + _mirrored(_INNER_JAW)[::-1]),
        "total": (((24, 36), *_JAW, *_mirrored(_JAW), (88, 36)),),
    }
)
"""Outlines in pixels of the chip. `total` reaches from the eyebrows to the jaw: hair on a forehead
covers nothing that recognition needs."""

FACTORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "occlusion_total": ("total",),
        "occlusion_eye": ("left_eye", "right_eye"),
        "occlusion_nose": ("nose",),
        "occlusion_mouth": ("mouth",),
        "occlusion_eyebrow": ("left_eyebrow", "right_eyebrow"),
        "occlusion_face_line": ("face_line",),
    }
)
"""The factors and their regions; of two, the more covered one counts."""


def region_weights() -> NDArray[np.float32]:
    """For each of `POLYGONS` the weights (CELLS · CELLS) that average a map over it; sum 1."""
    fine = 4  # subpixels of the chip along each side
    rows = []
    for outlines in POLYGONS.values():
        canvas = np.zeros((SIDE * fine, SIDE * fine), np.float32)
        for outline in outlines:
            cv2.fillPoly(canvas, [np.round(np.array(outline) * fine).astype(np.int32)], (1.0,))
        cells = cv2.resize(canvas, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
        rows.append(cells.reshape(-1) / cells.sum())
    return np.stack(rows).astype(np.float32)


def shares(
    maps: NDArray[np.floating], weights: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """The factors' values (n,) 0..1 of maps (n, CELLS, CELLS) that say how covered a cell is."""
    cells = maps.reshape(len(maps), CELLS * CELLS).astype(np.float32)
    averages = cells @ weights.T  # (n, regions)
    columns = {name: column for column, name in enumerate(POLYGONS)}
    return {
        factor: averages[:, [columns[name] for name in names]].max(axis=1)
        for factor, names in FACTORS.items()
    }


def outside(transforms: NDArray[np.float64], frame: tuple[float, float]) -> NDArray[np.bool_]:
    """Which cells (n, CELLS, CELLS) of the chips lie outside a picture of `frame` width × height.

    `transforms` (n, 2, 3) lead from the picture to the chips.
    """
    return ~inside(transforms, frame, _CENTRES).reshape(-1, CELLS, CELLS)


def inside(
    transforms: NDArray[np.float64],
    frame: tuple[float, float],
    places: NDArray[np.floating | np.integer],
) -> NDArray[np.bool_]:
    """Which of the places (k, 2) of the chips show the picture, (n, k); the rest is beyond it."""
    linear = transforms[:, :, :2]  # a rotation with a scale: its transpose is its inverse times …
    squared_scale = (linear[:, 0] ** 2).sum(axis=1)[:, np.newaxis, np.newaxis]  # … this
    there = (places - transforms[:, np.newaxis, :, 2]) @ linear / squared_scale
    shown: NDArray[np.bool_] = ((there >= 0) & (there <= frame)).all(axis=2)
    return shown


_MIDDLES = (np.arange(CELLS) + 0.5) * _CELL - 0.5
_CENTRES = np.stack(np.meshgrid(_MIDDLES, _MIDDLES), -1).reshape(-1, 2)
