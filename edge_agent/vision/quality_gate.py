"""Quality gate: the last check of a shot before it is embedded, by the more expensive models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.camera import Frame
from edge_agent.config.settings import LivenessSettings
from edge_agent.vision.load_profile import LoadProfile
from edge_agent.vision.shot import Shot
from edge_agent.vision.track_history import DueShot, LivenessScores, TrackHistory
from models.quality.gates import DOORWAY, Gate
from models.types import BgrImage, Detections, Shapes
from shared.wire.quality import Pose, Quality, QualityFactor

_LIVENESS_AGAIN_S: Final = 0.08  # neighbouring frames say the same
_LIVENESS_SCORES: Final = 5  # before a first probe; later ones come with the judged shots


class GateModels(Protocol):
    """The part of `models.face_models.FaceModels` that is used here."""

    def head_poses(self, image: BgrImage, boxes: NDArray[np.float32]) -> list[Pose] | None: ...
    def liveness(
        self, image: BgrImage, boxes: NDArray[np.float32]
    ) -> NDArray[np.float32] | None: ...
    def assess(
        self,
        image: BgrImage,
        detections: Detections,
        shapes: Shapes,
        *,
        poses: list[Pose] | None = None,
        chips: NDArray[np.uint8] | None = None,
        gate: Gate = DOORWAY,
        occlusion: bool = False,
    ) -> list[Quality]: ...


@dataclass(frozen=True, slots=True, eq=False)
class JudgedShot:
    """A shot with its quality and pose by the more expensive models."""

    history: TrackHistory
    shot: Shot
    pose: Pose | None
    quality: Quality


class QualityGate:
    """Runs the pose, liveness and occlusion models on the shots of one camera."""

    def __init__(self, models: GateModels, gate: Gate, liveness: LivenessSettings) -> None:
        self._models = models
        self._gate = gate
        self._liveness = liveness

    def judge(self, due: DueShot, profile: LoadProfile) -> JudgedShot:
        """Judges a shot; it passes where its quality has `passed`."""
        history, shot = due.history, due.shot
        poses = self._models.head_poses(shot.scene, shot.scene_boxes)
        if self._liveness.policy != "off" and profile.liveness:
            self._add_liveness(history.liveness, shot.scene, shot.scene_boxes, shot.time_s)
        quality = self._quality(shot, poses, profile)
        if self._liveness.policy == "refuse" and profile.liveness:
            quality = self._with_liveness(quality, history.liveness.median)
        return JudgedShot(history, shot, poses[0] if poses else None, quality)

    def watch_liveness(
        self,
        frame: Frame,
        faces: Sequence[tuple[TrackHistory, NDArray[np.float32]]],
        profile: LoadProfile,
    ) -> None:
        """Scores the liveness of faces, given by boxes (4,), where a first probe depends on it."""
        if self._liveness.policy != "refuse" or not profile.liveness:
            return
        for history, box in faces:
            scores = history.liveness
            fresh = not history.probes and len(scores.newest) < _LIVENESS_SCORES
            if fresh and frame.time_s - scores.at_s >= _LIVENESS_AGAIN_S:
                self._add_liveness(scores, frame.image, box[np.newaxis], frame.time_s)

    def _add_liveness(
        self, scores: LivenessScores, image: BgrImage, boxes: NDArray[np.float32], at_s: float
    ) -> None:
        newest = self._models.liveness(image, boxes)
        if newest is not None:
            scores.add(float(newest[0]), at_s)

    def _with_liveness(self, quality: Quality, score: float | None) -> Quality:
        if score is None:
            return quality
        low = self._liveness.threshold
        factor = QualityFactor(name="liveness", value=score, low=low, high=1.0, passed=score >= low)
        return Quality(score=quality.score, factors=(*quality.factors, factor))

    def _quality(self, shot: Shot, poses: list[Pose] | None, profile: LoadProfile) -> Quality:
        width, height = shot.frame_size
        # With the chip, only the size of the picture counts: the picture itself was not kept.
        blank: BgrImage = np.broadcast_to(np.zeros(1, np.uint8), (height, width, 3))
        return self._models.assess(
            blank,
            shot.detection,
            shot.shapes,
            poses=poses,
            chips=shot.chip[np.newaxis],
            gate=self._gate,
            occlusion=profile.occlusion,
        )[0]
