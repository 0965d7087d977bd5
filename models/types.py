"""The values that face models exchange. Arrays carry shape, type, unit and frame of reference."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.wire.quality import Pose, Quality
from shared.wire.template import Template

BgrImage = NDArray[np.uint8]  # (height, width, 3), blue green red


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Faces found in one picture, best score first."""

    boxes: NDArray[
        np.float32
    ]  # (n, 4) x1 y1 x2 y2, pixels of the source picture, may reach outside
    scores: NDArray[np.float32]  # (n,) 0..1
    points5: NDArray[np.float32] | None = None  # (n, 5, 2) pixels, where the detector gives them

    def __len__(self) -> int:
        return int(self.boxes.shape[0])

    def take(self, rows: NDArray[np.intp]) -> "Detections":
        """Returns the detections of these rows, in this order."""
        points5 = None if self.points5 is None else self.points5[rows]
        return Detections(self.boxes[rows], self.scores[rows], points5)

    def moved(self, right: float, down: float) -> "Detections":
        """Returns the faces in a picture whose origin is so many pixels to the left and up."""
        shift = np.array([right, down], np.float32)
        points5 = None if self.points5 is None else self.points5 + shift
        return Detections(self.boxes + np.tile(shift, 2), self.scores, points5)

    def scaled(self, factor: float) -> "Detections":
        """Returns the faces in a picture that is `factor` times as wide and high."""
        times = np.float32(factor)
        points5 = None if self.points5 is None else self.points5 * times
        return Detections(self.boxes * times, self.scores, points5)


@dataclass(frozen=True, slots=True, eq=False)
class Shapes:
    """Where the features of n faces lie, in pixels of the source picture."""

    points5: NDArray[np.float32]  # (n, 5, 2) left eye, right eye, nose, mouth corners, as seen
    points68: NDArray[np.float32] | None  # (n, 68, 2) iBUG order, where the pack has such a model

    def take(self, rows: NDArray[np.intp]) -> "Shapes":
        """Returns the shapes of these rows, in this order."""
        return Shapes(self.points5[rows], None if self.points68 is None else self.points68[rows])


@dataclass(frozen=True, slots=True, eq=False)
class LocatedFace:
    """A face of one picture, and where its features lie."""

    box: NDArray[np.float32]  # (4,) x1 y1 x2 y2, pixels of the source picture
    score: float  # of the detector, 0..1
    points5: NDArray[np.float32]  # (5, 2) pixels of the source picture
    points68: NDArray[np.float32] | None  # (68, 2) pixels of the source picture


@dataclass(frozen=True, slots=True, eq=False)
class Face(LocatedFace):
    """All values of one face of one picture."""

    pose: Pose | None
    quality: Quality
    liveness: float | None  # 0..1, higher is more likely a live face; weak on stills
    chip: BgrImage  # (112, 112, 3) aligned to the ArcFace reference
    template: Template | None  # None when embedding was not asked for
    certainty: float | None = None  # 0..1 how surely it is a face; None where it was not asked for
