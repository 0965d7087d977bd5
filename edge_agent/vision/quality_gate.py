"""Judging: the last word on a shot before it is embedded, by the models that cost more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.camera import Frame
from edge_agent.vision.best_shot import Candidate, Story
from edge_agent.vision.load_profile import LoadProfile
from edge_agent.vision.shot import Shot
from edge_agent.vision.timing import StageTimes
from models.quality.quality import DOORWAY, Gate
from models.types import BgrImage, Detections, Shapes
from shared.wire.quality import Pose, Quality, QualityFactor

_LOOK_AGAIN_S: Final = 0.08  # neighbouring frames tell nothing new
_LOOKS: Final = 5  # before a first probe; later ones come with the shots that are judged


class JudgingModels(Protocol):
    """What is asked of `models.face_models.FaceModels` here."""

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


@dataclass(frozen=True, slots=True)
class LivenessRules:
    """What is made of the liveness score, a weak one: the median over the looks at a track.

    `off` never asks the model; `report` sends its score along; `refuse` makes no probe of a track
    while the median lies below `threshold`.
    """

    policy: Literal["off", "report", "refuse"] = "report"
    threshold: float = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A candidate that passed the gate, with what the costlier models say of it."""

    candidate: Candidate
    pose: Pose | None
    quality: Quality


class Judge:
    """Has pose, liveness and occlusion models look closer at the shots of one camera."""

    def __init__(
        self, models: JudgingModels, gate: Gate, liveness: LivenessRules, times: StageTimes
    ) -> None:
        self._models = models
        self._gate = gate
        self._liveness = liveness
        self._times = times

    def judge(self, candidate: Candidate, profile: LoadProfile) -> tuple[Judged, bool]:
        """What the models say of the shot, and whether it passes."""
        shot = candidate.shot
        with self._times.measure("pose"):
            poses = self._models.head_poses(shot.scene, shot.scene_boxes)
        if self._liveness.policy != "off" and profile.liveness:
            self._look(candidate.story, shot.scene, shot.scene_boxes, shot.time_s)
        with self._times.measure("occlusion"):
            quality = self._quality(shot, poses, profile)
        quality = self._with_liveness(quality, candidate.story, profile)
        return Judged(candidate, poses[0] if poses else None, quality), quality.passed

    def watch(
        self, frame: Frame, seen: Sequence[tuple[Story, NDArray[np.float32]]], profile: LoadProfile
    ) -> None:
        """Looks at the liveness of faces (4,) that have no probe yet, where it decides on one."""
        if self._liveness.policy != "refuse" or not profile.liveness:
            return
        for story, box in seen:
            fresh = not story.probes and len(story.liveness) < _LOOKS
            if fresh and frame.time_s - story.liveness_s >= _LOOK_AGAIN_S:
                self._look(story, frame.image, box[np.newaxis], frame.time_s)

    def _look(self, story: Story, image: BgrImage, boxes: NDArray[np.float32], at_s: float) -> None:
        with self._times.measure("liveness"):
            scores = self._models.liveness(image, boxes)
        if scores is not None:
            story.looked_at_liveness(float(scores[0]), at_s)

    def _with_liveness(self, quality: Quality, story: Story, profile: LoadProfile) -> Quality:
        score = story.median_liveness
        if self._liveness.policy != "refuse" or not profile.liveness or score is None:
            return quality
        low = self._liveness.threshold
        factor = QualityFactor(name="liveness", value=score, low=low, high=1.0, passed=score >= low)
        return Quality(score=quality.score, factors=(*quality.factors, factor))

    def _quality(self, shot: Shot, poses: list[Pose] | None, profile: LoadProfile) -> Quality:
        width, height = shot.frame_size
        # The chip is given, so of the picture only its size counts: no need to have kept it.
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
