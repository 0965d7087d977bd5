"""Head pose in degrees."""

import numpy as np
from numpy.typing import NDArray

from models.alignment import REFERENCE
from models.onnx_session import Session
from models.preprocessing import InputSpec, Layout
from models.types import BgrImage
from models.warping import clip, enlarge, stretch
from shared.wire.quality import Pose

_BINS = np.arange(66, dtype=np.float32)

# What both estimates below call the pitch of people who look level into the lens: the mean over 71
# faces of photographs is -9.7 degrees by the graph and -10.4 by the points.
_LEVEL_PITCH = -10.0

# The five points of a face that looks straight ahead, in units of the ArcFace reference: a pupil
# distance of 35 stands for 63 mm, so a nose tip 39 mm in front of the eyes is 22 towards the
# camera, and mouth corners 7 mm in front are 4.
FACE = np.column_stack([REFERENCE, [0.0, 0.0, 22.0, 4.0, 4.0]]).astype(np.float64)
_FACE_INVERSE = np.linalg.pinv(FACE - FACE.mean(axis=0))  # (3, 5)


class PoseModel:
    """HopeNet's scheme (Ruiz et al., 2018): 66 bins of 3° for each angle, and their expectation."""

    def __init__(self, session: Session, spec: InputSpec) -> None:
        self._session = session
        self._layout = Layout(spec)
        self._size = spec.size

    def estimate(self, image: BgrImage, boxes: NDArray[np.float32]) -> list[Pose]:
        """Returns the poses of the faces in boxes (n, 4), pixels of `image`, in one run."""
        if len(boxes) == 0:
            return []
        crops = [stretch(image, box, self._size) for box in clip(enlarge(boxes, 1.5), image)]
        bins = self._session.run_each(self._layout.batch(crops))  # yaw, pitch, roll: (n, 66) each
        angles = np.stack([_expected_degrees(logits) for logits in bins], axis=1)
        # The graph counts a face that looks to the left of the picture as positive yaw.
        return [
            Pose(yaw=-yaw, pitch=pitch - _LEVEL_PITCH, roll=roll)
            for yaw, pitch, roll in angles.tolist()
        ]


def _expected_degrees(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    degrees: NDArray[np.float32] = (weights @ _BINS) / weights.sum(axis=1) * 3 - 99
    return degrees


def poses_from_points(points5: NDArray[np.float32]) -> list[Pose]:
    """Returns poses from five points (n, 5, 2): faster than the graph, and less exact.

    Scaled orthographic projection of a rigid face: the least-squares 2×3 map from the face's
    points to the picture's is, up to scale, the upper rows of its rotation (Tomasi and Kanade,
    1992); its polar factor is the nearest such rows.
    """
    if len(points5) == 0:
        return []
    centred = points5 - points5.mean(axis=1, keepdims=True, dtype=np.float64)
    maps = centred.transpose(0, 2, 1) @ _FACE_INVERSE.T  # (n, 2, 3)
    left, _, right = np.linalg.svd(maps, full_matrices=False)
    rows = left @ right
    depth = rows[:, 0, 0] * rows[:, 1, 1] - rows[:, 0, 1] * rows[:, 1, 0]
    yaws = np.degrees(np.arcsin(np.clip(rows[:, 0, 2], -1, 1)))
    pitches = np.degrees(-np.arctan2(rows[:, 1, 2], np.abs(depth)))
    rolls = np.degrees(np.arctan2(rows[:, 1, 0], rows[:, 0, 0]))
    angles = np.stack([yaws, pitches - _LEVEL_PITCH, rolls], axis=1)
    return [Pose(yaw=yaw, pitch=pitch, roll=roll) for yaw, pitch, roll in angles.tolist()]
