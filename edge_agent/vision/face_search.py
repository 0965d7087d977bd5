"""When a camera's frames are searched for faces, and how closely."""

from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.camera import Frame
from edge_agent.vision.load_profile import LoadProfile
from edge_agent.vision.motion import MotionWatch
from models.types import BgrImage, Detections

Reach = Literal["near", "far", "auto"]

_SAME_FACE: Final = 0.3  # overlap of two boxes that are one face


class FaceFinder(Protocol):
    """What is asked of `models.face_models.FaceModels` here."""

    def detect(
        self, image: BgrImage, *, retry_padded: bool = False, closer: bool = False
    ) -> Detections: ...


@dataclass(frozen=True, slots=True)
class DetectionRules:
    """How one camera is searched. Times are stream time."""

    every: int = 1  # frames; between them, tracks are predicted
    motion: bool = True  # without motion, search only every `idle_s`
    idle_s: float = 2.0
    settled_s: float = 0.06  # not searched sooner again while everybody in view is known
    awake_s: float = 1.0  # after a motion, go on for so long
    reach: Reach = "auto"
    closer_s: float = 4.0  # "auto" tries a closer look so often, three times as seldom when idle
    far_s: float = 10.0  # and stays with it for so long after it found a face that was missed
    far_every_s: float = 0.15  # closer looks cost more, and far faces move little
    usable_px: float = 32.0  # width of a box: a smaller face does not pass any gate but "off"


class Lookout:
    """Chooses for each frame of one camera, and searches it. Not thread-safe."""

    def __init__(self, finder: FaceFinder, rules: DetectionRules) -> None:
        self._finder = finder
        self._rules = rules
        self._motion = MotionWatch()
        self._awake_until_s = float("-inf")
        self._searched_s = float("-inf")
        self._tried_s = float("-inf")  # when "auto" last compared a closer look with a plain one
        self._far_until_s = float("-inf")
        self.still = False  # whether the newest frame was passed over because nothing has moved
        self.closer_looks = 0

    def search(
        self, frame: Frame, profile: LoadProfile, *, settled: bool = False
    ) -> Detections | None:
        """The faces of `frame`; None where it is not searched.

        `settled`: there are faces in view, and none of them that has to be seen soon.
        """
        if frame.alone:
            # A still gets a second try with a margin around it; in a film the next frame does.
            far = self._rules.reach == "far"
            return self._ask(frame, retry_padded=not far, closer=far)
        self.still = False
        if frame.index % max(self._rules.every, profile.detect_every):
            return None
        if settled and 0 <= frame.time_s - self._searched_s < self._rules.settled_s:
            return None
        if self._rules.motion and not self._is_awake(frame):
            self.still = True
            return None
        found = self._find(frame, profile)
        if found is not None:
            self._searched_s = frame.time_s
            self._motion.searched()
        return found

    def _is_awake(self, frame: Frame) -> bool:
        now_s = frame.time_s
        if self._motion.moved(frame.image):
            self._awake_until_s = now_s + self._rules.awake_s
        return now_s < self._awake_until_s or now_s - self._searched_s >= self._rules.idle_s

    def _find(self, frame: Frame, profile: LoadProfile) -> Detections | None:
        rules, now_s = self._rules, frame.time_s
        if rules.reach == "near" or not profile.closer_looks:
            return self._ask(frame)
        if rules.reach == "auto":
            idle = rules.motion and now_s >= self._awake_until_s
            if now_s - self._tried_s >= rules.closer_s * (3 if idle else 1):
                return self._compare(frame)
            if now_s >= self._far_until_s:
                return self._ask(frame)
        if now_s - self._searched_s < rules.far_every_s:
            return None
        return self._look_closer(frame)

    def _compare(self, frame: Frame) -> Detections:
        """Looks both ways; stays with the closer one where it finds faces that are of use."""
        self._tried_s = frame.time_s
        plain, closer = self._ask(frame), self._look_closer(frame)
        widths = closer.boxes[:, 2] - closer.boxes[:, 0]
        usable = closer.take(np.flatnonzero(widths >= self._rules.usable_px))
        if len(usable) and (_best_overlap(usable.boxes, plain.boxes) < _SAME_FACE).any():
            self._far_until_s = frame.time_s + self._rules.far_s
        return closer

    def _look_closer(self, frame: Frame) -> Detections:
        self.closer_looks += 1
        return self._ask(frame, closer=True)

    def _ask(self, frame: Frame, *, retry_padded: bool = False, closer: bool = False) -> Detections:
        """The faces of the frame, without what lies outside of it: there is nothing to look at."""
        found = self._finder.detect(frame.image, retry_padded=retry_padded, closer=closer)
        corners = np.clip(found.boxes, 0, np.tile(np.array(frame.size, np.float32), 2))
        visible = (corners[:, 2:] - corners[:, :2] >= 1).all(axis=1)
        return found if visible.all() else found.take(np.flatnonzero(visible))


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
