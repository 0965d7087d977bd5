"""The pipeline of one camera: frame → detection → track → best shot → template → probe → outbox."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.feed import Frame
from edge_agent.probes import Probe
from edge_agent.timing import StageTimes
from edge_agent.tracking.appearance import SceneWatch
from edge_agent.tracking.bestshot import BestShots, Candidate, ShotRules, Story, published
from edge_agent.tracking.shots import Shot, take_shot, thumbnail
from edge_agent.tracking.tracker import Track, Tracker, TrackingRules
from models.quality import DOORWAY, Gate
from models.types import BgrImage, Detections, Shapes
from shared.ids import new_id
from shared.quality import Pose, Quality
from shared.template import Template

log = logging.getLogger(__name__)

MODEL_STAGES: Final = ("detect", "locate", "pose", "liveness", "occlusion", "embed")


class Faces(Protocol):
    """What the pipeline asks of `models.analysis.FaceModels`."""

    def detect(self, image: BgrImage, *, retry_padded: bool = False) -> Detections: ...
    def locate(self, image: BgrImage, detections: Detections) -> Shapes: ...
    def head_poses(self, image: BgrImage, boxes: NDArray[np.float32]) -> list[Pose] | None: ...
    def align(self, image: BgrImage, points5: NDArray[np.float32]) -> NDArray[np.uint8]: ...
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
    def embed(self, chips: NDArray[np.uint8]) -> list[Template]: ...


class ProbeSink(Protocol):
    """Where probes go; `edge_agent.outbox.Outbox` in the agent."""

    def put(self, probes: Sequence[Probe]) -> int: ...


@dataclass(frozen=True, slots=True)
class PipelineRules:
    """How one camera's frames are worked on."""

    gate: Gate = DOORWAY
    tracking: TrackingRules = field(default_factory=TrackingRules)
    shots: ShotRules = field(default_factory=ShotRules)
    detect_every: int = 1  # frames; between them, tracks are predicted
    thumbnails: bool = True


@dataclass(slots=True)
class PipelineCounts:
    """What one camera's pipeline has done. Written by its thread, read by others for reports."""

    frames: int = 0
    tracks: int = 0  # that ended or live, and were confirmed
    embeddings: int = 0
    probes: int = 0
    unidentified: Counter[str] = field(default_factory=Counter)
    """Tracks that ended without a probe, by the reasons why their last look did not pass."""


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """A candidate that passed the gate, with what the costlier models say of it."""

    candidate: Candidate
    pose: Pose | None
    quality: Quality


class Pipeline:
    """One camera's road from frames to probes. Not thread-safe; `models` may be shared."""

    def __init__(
        self,
        models: Faces,
        sink: ProbeSink,
        rules: PipelineRules | None = None,
        *,
        times: StageTimes | None = None,
    ) -> None:
        self._models = models
        self._sink = sink
        self._rules = rules or PipelineRules()
        self._scene = SceneWatch()
        self._tracker = Tracker(self._rules.tracking)
        self._still_tracker = Tracker(self._rules.tracking.of_stills())
        self._shots = BestShots(self._rules.shots)
        self._camera = ""
        self._confirmed: set[str] = set()
        self.times = times or StageTimes()
        self.counts = PipelineCounts()

    def step(self, frame: Frame) -> None:
        """Works on one frame; what became a probe is in the sink when it returns."""
        self.counts.frames += 1
        self._camera = frame.camera
        if frame.index % self._rules.detect_every:
            return
        with self.times.measure("frame"):
            detections = self._detect(frame)
            tracks, ended = self._track(frame, detections)
            self._look(frame, detections, tracks)
            due = self._shots.due(tracks, frame.time_s) + self._shots.last_of(ended)
            self._publish(self._embed(self._judge(due)))
            self._conclude(ended)
        if frame.alone:
            self.finish()

    def finish(self) -> None:
        """Ends all tracks and puts their waiting best shots into the sink."""
        ended = self._shots.end((*self._tracker.end_all(), *self._still_tracker.end_all()))
        self._publish(self._embed(self._judge(self._shots.last_of(ended))))
        self._conclude(ended)

    def _detect(self, frame: Frame) -> Detections:
        with self.times.measure("detect"):
            # A still gets a second try with a margin around it; in a film the next frame does.
            return self._models.detect(frame.image, retry_padded=frame.alone)

    def _track(self, frame: Frame, detections: Detections) -> tuple[tuple[Track, ...], list[Story]]:
        """The live tracks, and the stories of those that this frame ended."""
        with self.times.measure("track"):
            tracker = self._still_tracker if frame.alone else self._tracker
            cut = () if not self._scene.cut(frame.image) else self._tracker.end_all()
            step = tracker.update(detections.boxes, frame.time_s)
            fresh = {track.track_id for track in step.tracks if track.confirmed} - self._confirmed
            self.counts.tracks += len(fresh)
            for track_id in fresh:
                log.debug("Camera %s: a face comes into view, track %s", frame.camera, track_id)
            self._confirmed |= fresh
            return step.tracks, self._shots.end((*cut, *step.ended))

    def _look(self, frame: Frame, detections: Detections, tracks: Sequence[Track]) -> None:
        """Looks closer at the faces that could become best shots, and keeps those that do."""
        with self.times.measure("watch"):
            chosen = self._shots.to_look_at(tracks, frame.image, frame.time_s)
        if not chosen:
            return
        rows = np.array([track.row for track in chosen], np.intp)
        faces = detections.take(rows)
        with self.times.measure("locate"):
            shapes = self._models.locate(frame.image, faces)
        with self.times.measure("assess"):
            chips = self._models.align(frame.image, shapes.points5)
            qualities = self._models.assess(
                frame.image, faces, shapes, chips=chips, gate=self._rules.gate
            )
        with self.times.measure("shot"):
            for index, (track, quality) in enumerate(zip(chosen, qualities, strict=True)):
                if self._shots.beats(track, quality):
                    one = np.array([index])
                    shot = take_shot(
                        frame, faces.take(one), _row(shapes, one), chips[index], quality
                    )
                    self._shots.offer(track, shot)

    def _judge(self, due: Sequence[Candidate]) -> list[_Judged]:
        """Has pose, liveness and occlusion models look closer; answers what passes the gate."""
        judged = []
        for candidate in due:
            shot = candidate.shot
            with self.times.measure("pose"):
                poses = self._models.head_poses(shot.scene, shot.scene_boxes)
            with self.times.measure("liveness"):
                live = self._models.liveness(shot.scene, shot.scene_boxes)
            if live is not None:
                candidate.story.liveness.append(float(live[0]))
            with self.times.measure("occlusion"):
                quality = self._quality(shot, poses)
            if quality.passed:
                judged.append(_Judged(candidate, poses[0] if poses else None, quality))
            else:
                self._shots.refused(candidate, quality)
        return judged

    def _quality(self, shot: Shot, poses: list[Pose] | None) -> Quality:
        width, height = shot.frame_size
        # The chip is given, so of the picture only its size counts: no need to have kept it.
        blank: BgrImage = np.broadcast_to(np.zeros(1, np.uint8), (height, width, 3))
        return self._models.assess(
            blank,
            shot.detection,
            shot.shapes,
            poses=poses,
            chips=shot.chip[np.newaxis],
            gate=self._rules.gate,
            occlusion=True,
        )[0]

    def _embed(self, judged: Sequence[_Judged]) -> list[tuple[_Judged, Template]]:
        """The templates of all shots of one frame, as one batch."""
        if not judged:
            return []
        with self.times.measure("embed"):
            templates = self._models.embed(np.stack([one.candidate.shot.chip for one in judged]))
        self.counts.embeddings += len(templates)
        return list(zip(judged, templates, strict=True))

    def _publish(self, embedded: Sequence[tuple[_Judged, Template]]) -> None:
        """Puts into the sink what is news."""
        probes = []
        for judged, template in embedded:
            candidate = judged.candidate
            story = candidate.story
            if not self._shots.agrees(candidate, template):
                story = self._split(story)
            elif not self._shots.is_worth_a_probe(candidate):
                continue
            published(story, candidate.shot, template)
            probes.append(self._probe(judged, story, template))
        if probes:
            with self.times.measure("outbox"):
                self._sink.put(probes)
            self.counts.probes += len(probes)

    def _split(self, story: Story) -> Story:
        """The track has gone over to another person, who gets a track of their own."""
        fresh = self._tracker.split(story.track_id)
        track_id = new_id() if fresh is None else fresh.track_id
        self._confirmed.add(track_id)
        self.counts.tracks += 1
        log.info("Camera %s: a track went over to another face and is split", self._camera)
        return self._shots.become_another(story, track_id)

    def _probe(self, judged: _Judged, story: Story, template: Template) -> Probe:
        shot = judged.candidate.shot
        return Probe(
            probe_id=new_id(),
            camera=self._camera,
            captured_at=shot.captured_at,
            track_id=story.track_id,
            template=template,
            quality=judged.quality,
            pose=judged.pose,
            liveness=story.mean_liveness,
            detection_score=float(np.clip(shot.detection.scores[0], 0, 1)),
            box=shot.box,
            frame_size=shot.frame_size,
            thumbnail=thumbnail(shot) if self._rules.thumbnails else None,
        )

    def _conclude(self, ended: Sequence[Story]) -> None:
        """Enters why ended tracks gave no probe, and forgets what is not needed any more."""
        for story in ended:
            if not story.probes:
                self.counts.unidentified.update(story.reasons or ["no look"])
        live = self._tracker.tracks + self._still_tracker.tracks
        self._shots.keep_only(live)
        self._confirmed &= {track.track_id for track in live}


def _row(shapes: Shapes, row: NDArray[np.intp]) -> Shapes:
    points68 = None if shapes.points68 is None else shapes.points68[row]
    return Shapes(shapes.points5[row], points68)
