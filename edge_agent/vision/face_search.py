"""Chooses the frames of a camera that are searched for faces, and how closely."""

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.camera import Frame
from edge_agent.config.camera import DetectionSettings
from edge_agent.vision.load_profile import LoadProfile
from edge_agent.vision.motion import MotionDetector
from models.types import BgrImage, Detections

# Times are stream time.
_IDLE_S: Final = 2.0  # without motion, a frame is searched this often
_SETTLED_S: Final = 0.06  # pause between searches while all faces in view are known
_AWAKE_S: Final = 1.0  # after a motion, searches go on for so long
_CLOSER_S: Final = 4.0  # "auto" tries a closer search this often, less often without motion ...
_CLOSER_IDLE: Final = 3  # ... by this factor ...
_FAR_S: Final = 10.0  # ... and keeps to it for so long after it found a face that was missed
_FAR_EVERY_S: Final = 0.15  # pause between closer searches: they cost more, far faces move little
_USABLE_PX: Final = 32.0  # width of a box: a smaller face does not pass any gate but "off"
_SAME_FACE: Final = 0.3  # overlap of two boxes of one face


class FaceDetector(Protocol):
    """The part of `models.face_models.FaceModels` that is used here."""

    def detect(
        self, image: BgrImage, *, retry_padded: bool = False, closer: bool = False
    ) -> Detections: ...


class FaceSearch:
    """Searches the frames of one camera for faces. Not thread-safe."""

    def __init__(self, detector: FaceDetector, settings: DetectionSettings) -> None:
        self._detector = detector
        self._settings = settings
        self._motion = MotionDetector()
        self._awake_until_s = float("-inf")
        self._searched_s = float("-inf")
        self._tried_s = float("-inf")  # when "auto" last compared a closer search with a plain one
        self._far_until_s = float("-inf")
        self.still = False  # whether the newest frame was not searched because nothing moved
        self.closer_looks = 0

    def search(
        self, frame: Frame, profile: LoadProfile, *, settled: bool = False
    ) -> Detections | None:
        """The faces of `frame`; None where it is not searched.

        `settled`: there are faces in view, and none of them needs to be searched soon.
        """
        if frame.alone:
            # A still is searched again with a margin; in a film the next frame is.
            far = self._settings.faces == "far"
            return self._detect(frame, retry_padded=not far, closer=far)
        self.still = False
        if frame.index % max(self._settings.detect_every, profile.detect_every):
            return None
        if settled and 0 <= frame.time_s - self._searched_s < _SETTLED_S:
            return None
        if self._settings.motion and not self._is_awake(frame):
            self.still = True
            return None
        detections = self._search(frame, profile)
        if detections is not None:
            self._searched_s = frame.time_s
            self._motion.set_reference()
        return detections

    def _is_awake(self, frame: Frame) -> bool:
        now_s = frame.time_s
        if self._motion.has_moved(frame.image):
            self._awake_until_s = now_s + _AWAKE_S
        return now_s < self._awake_until_s or now_s - self._searched_s >= _IDLE_S

    def _search(self, frame: Frame, profile: LoadProfile) -> Detections | None:
        faces, now_s = self._settings.faces, frame.time_s
        if faces == "near" or not profile.closer_looks:
            return self._detect(frame)
        if faces == "auto":
            idle = self._settings.motion and now_s >= self._awake_until_s
            if now_s - self._tried_s >= _CLOSER_S * (_CLOSER_IDLE if idle else 1):
                return self._compare(frame)
            if now_s >= self._far_until_s:
                return self._detect(frame)
        if now_s - self._searched_s < _FAR_EVERY_S:
            return None
        return self._look_closer(frame)

    def _compare(self, frame: Frame) -> Detections:
        """Searches both ways; keeps to the closer one where it finds more usable faces."""
        self._tried_s = frame.time_s
        plain, closer = self._detect(frame), self._look_closer(frame)
        widths = closer.boxes[:, 2] - closer.boxes[:, 0]
        usable = closer.take(np.flatnonzero(widths >= _USABLE_PX))
        if len(usable) and (_best_overlap(usable.boxes, plain.boxes) < _SAME_FACE).any():
            self._far_until_s = frame.time_s + _FAR_S
        return closer

    def _look_closer(self, frame: Frame) -> Detections:
        self.closer_looks += 1
        return self._detect(frame, closer=True)

    def _detect(
        self, frame: Frame, *, retry_padded: bool = False, closer: bool = False
    ) -> Detections:
        """The faces of the frame, without those that lie outside of it."""
        detections = self._detector.detect(frame.image, retry_padded=retry_padded, closer=closer)
        corners = np.clip(detections.boxes, 0, np.tile(np.array(frame.size, np.float32), 2))
        visible = (corners[:, 2:] - corners[:, :2] >= 1).all(axis=1)
        return detections if visible.all() else detections.take(np.flatnonzero(visible))


def _best_overlap(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each of boxes (n, 4), its greatest intersection over union with others (m, 4)."""
    if not len(others):
        return np.zeros(len(boxes), np.float32)
    first, second = boxes[:, np.newaxis], others[np.newaxis]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(
        first[..., :2], second[..., :2]
    )
    shared = np.maximum(sides, 0).prod(axis=2)
    areas = (first[..., 2:] - first[..., :2]).prod(axis=2) + (
        second[..., 2:] - second[..., :2]
    ).prod(axis=2)
    best: NDArray[np.float32] = (shared / (areas - shared)).max(axis=1)
    return best
