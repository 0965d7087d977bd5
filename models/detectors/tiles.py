"""Finds small faces with a fast detector: it searches tiles of the picture too."""

import math
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from models.detectors.base import Detector, suppress
from models.types import BgrImage, Detections

# A larger face is the whole picture's to find: of one that a tile cuts through, a detector takes
# what is left, or a part of it, for a face (measured beside 23 faces: six such, with this two).
_LARGEST = 1.5  # overlaps
_LEAST = 0.05  # of a picture's width: a larger face is found in the whole picture
_WITHIN = 0.8  # of its area: so much of a box in a larger, better one is a part of that face
_GROUP = 3  # better boxes in one: it is a crowd's, not a face's
_EDGE = 2.0  # pixels: a box that comes so close to a tile's edge may be cut off by it


class Tiles:
    """Runs a detector on the whole picture and on overlapping tiles.

    A face that is cut off by a tile's edge lies whole in its neighbour if it is no larger than the
    overlap; a larger one is found in the whole picture. Where the picture is so large that a face
    could be too large for a tile and too small for the whole, tiles of the picture at a half, a
    quarter … of its size are looked at too. A picture no larger than a tile is looked at once.
    The time is that of so many runs: 5 at 1280×720, 10 at 1920×1080, 62 at 4000×3000.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        tile: tuple[int, int] = (720, 540),
        overlap: int = 80,
        max_overlap: float = 0.4,
        min_score: float = 0.0,
        smallest: float = 0.0,
    ) -> None:
        """`tile` (width, height) and `overlap` in pixels; `max_overlap` of boxes, as IoU.

        What only a tile shows counts from `min_score` and a width of `smallest` pixels upwards.
        """
        if overlap >= min(tile):
            raise ValueError(f"tiles of {tile} pixels cannot overlap by {overlap}")
        self._detector = detector
        self._tile = tile
        self._overlap = overlap
        self._max_overlap = max_overlap
        self._largest = _LARGEST * overlap  # pixels
        self._min_score = min_score
        self._smallest = smallest

    def detect(self, image: BgrImage) -> Detections:
        detections = [self._detector.detect(image)]
        for factor, level in self._levels(image):
            detections += [self._credible(part.scaled(factor)) for part in self._in_tiles(level)]
        return self._merged(detections)

    def _credible(self, part: Detections) -> Detections:
        wide = part.boxes[:, 2] - part.boxes[:, 0] >= self._smallest
        return part.take(np.flatnonzero(wide & (part.scores >= self._min_score)))

    def _levels(self, image: BgrImage) -> Iterator[tuple[float, BgrImage]]:
        """Yields the picture at each size to cut into tiles, and the factor to its full size."""
        height, width = image.shape[:2]
        least = _LEAST * max(width, height * self._tile[0] / self._tile[1])
        factor = 1
        while width > self._tile[0] * factor or height > self._tile[1] * factor:
            size = (max(1, round(width / factor)), max(1, round(height / factor)))
            level = image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            yield width / size[0], level  # type: ignore[misc]
            if self._largest * factor >= least:
                return
            factor *= 2

    def _in_tiles(self, image: BgrImage) -> Iterator[Detections]:
        height, width = image.shape[:2]
        for y1, y2 in _spans(height, self._tile[1], self._overlap):
            for x1, x2 in _spans(width, self._tile[0], self._overlap):
                part = self._detector.detect(image[y1:y2, x1:x2])
                whole = _not_cut_off(part, (x1, y1, x2, y2), (width, height))
                small = (part.boxes[:, 2:] - part.boxes[:, :2]).max(axis=1) <= self._largest
                yield part.take(np.flatnonzero(whole & small)).moved(x1, y1)

    def _merged(self, detections: list[Detections]) -> Detections:
        points5 = None
        if all(part.points5 is not None for part in detections):
            points5 = np.concatenate(
                [part.points5 for part in detections if part.points5 is not None]
            )
        merged = suppress(
            np.concatenate([part.boxes for part in detections]),
            np.concatenate([part.scores for part in detections]),
            self._max_overlap,
            points5,
        )
        return merged.take(np.flatnonzero(~_is_part_or_group(merged.boxes)))


def _is_part_or_group(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the boxes (n, 4), best first, lie in a better, larger one, or around several better
    ones: a tile finds a face's eyes and nose where the whole picture shows the face, and the whole
    picture may show one face where tiles find a crowd."""
    low = np.maximum(boxes[:, np.newaxis, :2], boxes[np.newaxis, :, :2])
    high = np.minimum(boxes[:, np.newaxis, 2:], boxes[np.newaxis, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    within = (shared > _WITHIN * areas[:, np.newaxis]) & (areas > areas[:, np.newaxis])
    # Of row and column, the column is the better one where it comes before.
    part = np.tril(within, -1).any(axis=1)
    group = np.triu(within, 1).sum(axis=0) >= _GROUP
    neither_face: NDArray[np.bool_] = part | group
    return neither_face


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Returns where tiles begin and end along one side: the fewest, evenly spread."""
    if length <= tile:
        return [(0, length)]
    count = math.ceil((length - overlap) / (tile - overlap))
    starts = np.linspace(0, length - tile, count).round().astype(int).tolist()
    return [(start, start + tile) for start in starts]


def _not_cut_off(
    part: Detections, tile: tuple[int, int, int, int], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which boxes (pixels of the tile) touch no edge of the tile within the picture."""
    x1, y1, x2, y2 = tile
    low = np.where(np.array([x1, y1]) > 0, _EDGE, -np.inf)
    side = np.array([x2 - x1, y2 - y1], np.float64)
    high = np.where(np.array([x2, y2]) < np.array(size), side - _EDGE, np.inf)
    inside: NDArray[np.bool_] = np.logical_and(
        (part.boxes[:, :2] >= low).all(axis=1), (part.boxes[:, 2:] <= high).all(axis=1)
    )
    return inside
