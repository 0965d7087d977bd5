"""The pipeline of one camera: frame → detection → track → best shot → template → probe → outbox."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.camera import Frame
from edge_agent.vision.best_shot import BestShots, Candidate, ShotRules, Story, is_covered
from edge_agent.vision.face_search import DetectionRules, FaceFinder, Lookout
from edge_agent.vision.fingerprints import SceneWatch, face_fingerprint
from edge_agent.vision.load_profile import LoadProfile
from edge_agent.vision.presence import Presence, main_reason
from edge_agent.vision.probe import Probe
from edge_agent.vision.quality_gate import Judge, Judged, JudgingModels, LivenessRules
from edge_agent.vision.recognition_ledger import TrackLedger
from edge_agent.vision.shot import take_shot, thumbnail
from edge_agent.vision.timing import StageTimes
from edge_agent.vision.track_events import TrackSink
from edge_agent.vision.tracker import Track, Tracker, TrackingRules
from models.alignment import alignable
from models.quality.quality import DOORWAY, Gate
from models.types import BgrImage, Detections, Shapes
from shared.ids import new_id
from shared.wire.quality import Quality
from shared.wire.template import Template

log = logging.getLogger(__name__)

_JITTER_S: Final = 0.5  # a stream's time that falls back by less goes on
MODEL_STAGES: Final = ("detect", "locate", "pose", "liveness", "occlusion", "embed")


class Faces(FaceFinder, JudgingModels, Protocol):
    """What the pipeline asks of `models.face_models.FaceModels`."""

    def locate(self, image: BgrImage, detections: Detections) -> Shapes: ...
    def align(self, image: BgrImage, points5: NDArray[np.float32]) -> NDArray[np.uint8]: ...
    def embedding_chips(
        self,
        image: BgrImage,
        points5: NDArray[np.float32],
        chips: NDArray[np.uint8],
        qualities: Sequence[Quality],
    ) -> NDArray[np.uint8]: ...
    def embed(self, chips: NDArray[np.uint8]) -> list[Template]: ...


class ProbeSink(Protocol):
    """Where probes go; `edge_agent.outbox.outbox.Outbox` in the agent."""

    def put(self, probes: Sequence[Probe]) -> int: ...


@dataclass(frozen=True, slots=True)
class PipelineRules:
    """How one camera's frames are worked on."""

    gate: Gate = DOORWAY
    detection: DetectionRules = field(default_factory=DetectionRules)
    tracking: TrackingRules = field(default_factory=TrackingRules)
    shots: ShotRules = field(default_factory=ShotRules)
    liveness: LivenessRules = field(default_factory=LivenessRules)
    thumbnails: bool = True


@dataclass(slots=True)
class PipelineCounts:
    """What one camera's pipeline has done. Written by its thread, read by others for reports."""

    frames: int = 0
    searched: int = 0  # frames in which faces were looked for
    tracks: int = 0  # that ended or live, and were confirmed
    embeddings: int = 0
    probes: int = 0
    unidentified: Counter[str] = field(default_factory=Counter)
    """Tracks that ended without a probe, by the main reason why."""


class Pipeline:
    """One camera's road from frames to probes. Not thread-safe; `models` may be shared.

    Any thread may set `load_profile`; it applies from the next frame on.
    """

    def __init__(
        self,
        models: Faces,
        sink: ProbeSink,
        rules: PipelineRules | None = None,
        *,
        tracks: TrackSink | None = None,
        ledger: TrackLedger | None = None,
        times: StageTimes | None = None,
    ) -> None:
        self._models = models
        self._sink = sink
        self._rules = rules or PipelineRules()
        self.times = times or StageTimes()
        self.counts = PipelineCounts()
        self.load_profile = LoadProfile()
        self._lookout = Lookout(models, self._rules.detection)
        self._scene = SceneWatch()
        self._tracker = Tracker(self._rules.tracking)
        self._still_tracker = Tracker(self._rules.tracking.of_stills())
        self._shots = BestShots(_patient(self._rules))
        self._judge = Judge(models, self._rules.gate, self._rules.liveness, self.times)
        self._presence = Presence(tracks, ledger)
        self._left: list[Story] = []  # of people who were found out only when they had gone
        self._before: tuple[float, tuple[int, int]] | None = None  # the last frame's time and size

    @property
    def in_view(self) -> int:
        """How many confirmed faces are before the camera now."""
        return self._presence.in_view

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The tracks that live, oldest first, as they stand after the newest frame."""
        return self._tracker.tracks

    def step(self, frame: Frame) -> None:
        """Works on one frame; what became a probe is in the sink when it returns."""
        self.counts.frames += 1
        profile = self.load_profile
        if not frame.alone:
            frame = self._in_order(frame)
        self._presence.at(frame.camera, frame.captured_at, frame.time_s)
        with self.times.measure("frame"):
            detections = self._detect(frame, profile)
            tracks, ended = self._track(frame, detections)
            if detections is not None:
                self._look(frame, detections, tracks, profile)
            due = self._shots.due(tracks, frame.time_s) + self._shots.last_of(ended)
            self._publish(self._embed(self._pass(due, profile)))
            self._conclude(ended)
        if frame.alone:
            self.finish()

    def finish(self) -> None:
        """Ends all tracks and puts their waiting best shots into the sink."""
        ended = self._shots.end((*self._tracker.end_all(), *self._still_tracker.end_all()))
        self._publish(self._embed(self._pass(self._shots.last_of(ended), self.load_profile)))
        self._conclude(ended)

    def _in_order(self, frame: Frame) -> Frame:
        """The frame, never earlier than the one before.

        Where a stream begins anew, in time or with pictures of another size, nobody of before is
        looked for in it.
        """
        time_s = frame.time_s
        if self._before is not None:
            before_s, size = self._before
            if time_s < before_s - _JITTER_S or frame.size != size:
                self.finish()
                self._lookout = Lookout(self._models, self._rules.detection)
            elif time_s < before_s:
                frame = replace(frame, time_s=before_s)
        self._before = frame.time_s, frame.size
        return frame

    def _detect(self, frame: Frame, profile: LoadProfile) -> Detections | None:
        """The faces of the frame, or None where it was not searched."""
        with self.times.measure("detect"):
            settled = self._shots.are_settled(self._tracker.tracks, frame.time_s)
            found = self._lookout.search(frame, profile, settled=settled)
        self.counts.searched += found is not None
        return found

    def _track(
        self, frame: Frame, detections: Detections | None
    ) -> tuple[tuple[Track, ...], list[Story]]:
        """The live tracks, and the stories of those that this frame ended."""
        with self.times.measure("track"):
            tracker = self._still_tracker if frame.alone else self._tracker
            if detections is None and not self._lookout.still:
                return tracker.tracks, []
            cut: tuple[Track, ...] = ()
            if detections is None:
                step = tracker.hold(frame.time_s)
            else:
                cut = self._tracker.end_all() if self._scene.cut(frame.image) else ()
                corners = [(x1, y1, x2, y2) for x1, y1, x2, y2 in detections.boxes.tolist()]
                looks = [face_fingerprint(frame.image, box) for box in corners]
                step = tracker.update(detections.boxes, frame.time_s, looks)
            self.counts.tracks += self._presence.came(step.tracks)
            return step.tracks, self._shots.end((*cut, *step.ended))

    def _look(
        self, frame: Frame, detections: Detections, tracks: Sequence[Track], profile: LoadProfile
    ) -> None:
        """Looks closer at the faces that could become best shots, and keeps those that do."""
        with self.times.measure("watch"):
            chosen = self._shots.to_look_at(tracks, frame.time_s)
        if not chosen:
            return
        rows = np.array([track.row for track in chosen], np.intp)
        faces = detections.take(rows)
        with self.times.measure("locate"):
            shapes = self._models.locate(frame.image, faces)
        usable = np.flatnonzero(alignable(shapes.points5))
        if len(usable) < len(chosen):  # points of no face: another frame will show it better
            chosen = [chosen[row] for row in usable.tolist()]
            faces, shapes = faces.take(usable), shapes.take(usable)
        if not chosen:
            return
        with self.times.measure("assess"):
            chips = self._models.align(frame.image, shapes.points5)
            qualities = self._models.assess(
                frame.image, faces, shapes, chips=chips, gate=self._rules.gate
            )
        with self.times.measure("shot"):
            for index, (track, quality) in enumerate(zip(chosen, qualities, strict=True)):
                self._shots.recognize(track, chips[index])
                if self._shots.beats(track, quality):
                    one = np.array([index])
                    shot = take_shot(
                        frame, faces.take(one), shapes.take(one), chips[index], quality
                    )
                    self._shots.offer(track, shot)
        passing = [
            (self._shots.story(track), box)
            for track, box, quality in zip(chosen, faces.boxes, qualities, strict=True)
            if quality.passed
        ]
        self._judge.watch(frame, passing, profile)

    def _pass(self, due: Sequence[Candidate], profile: LoadProfile) -> list[Judged]:
        """Of the shots that are due, those that pass the gate under a closer look."""
        passed = []
        for candidate in due:
            judged, passes = self._judge.judge(candidate, profile)
            if passes:
                passed.append(judged)
            else:
                self._shots.refused(candidate, judged.quality)
        return passed

    def _embed(self, judged: Sequence[Judged]) -> list[tuple[Judged, Template]]:
        """The templates of all shots of one frame, as one batch."""
        if not judged:
            return []
        with self.times.measure("embed"):
            templates = self._models.embed(np.concatenate([self._chips(one) for one in judged]))
        self.counts.embeddings += len(templates)
        return list(zip(judged, templates, strict=True))

    def _chips(self, judged: Judged) -> NDArray[np.uint8]:
        """The chip (1, height, width, 3) that the embedder takes of a shot."""
        shot = judged.candidate.shot
        return self._models.embedding_chips(
            shot.scene, shot.scene_points5, shot.chip[np.newaxis], [judged.quality]
        )

    def _publish(self, embedded: Sequence[tuple[Judged, Template]]) -> None:
        """Puts into the sink what is news."""
        probes = []
        for judged, template in embedded:
            candidate = judged.candidate
            story = candidate.story
            verdict = self._shots.compare(candidate, judged.quality, template)
            if verdict == "another":
                story = self._split(story)
            elif verdict == "unsure" or not self._shots.is_worth_a_probe(candidate, template):
                continue
            sent, shots = self._shots.publish(story, candidate.shot, template)
            story.free_probes += not is_covered(judged.quality)
            probes.append(self._probe(judged, story, sent, shots))
        if probes:
            with self.times.measure("outbox"):
                self._sink.put(probes)
            self.counts.probes += len(probes)

    def _split(self, story: Story) -> Story:
        """The track has gone over to another person, who gets a track of their own."""
        fresh = self._tracker.split(story.track_id)
        track_id = new_id() if fresh is None else fresh.track_id
        log.info("Camera %s: a track went over to another face and is split", self._presence.camera)
        another = self._shots.become_another(story, track_id)
        self._presence.end(story)
        self._presence.begin(track_id, another.began_s)
        self.counts.tracks += 1
        if fresh is None:  # it has ended already, and nobody else will say so
            self._left.append(another)
        return another

    def _probe(self, judged: Judged, story: Story, template: Template, shots: int) -> Probe:
        shot = judged.candidate.shot
        return Probe(
            probe_id=new_id(),
            camera=self._presence.camera,
            captured_at=shot.captured_at,
            track_id=story.track_id,
            template=template,
            quality=judged.quality,
            pose=judged.pose,
            liveness=story.median_liveness,
            detection_score=float(np.clip(shot.detection.scores[0], 0, 1)),
            box=shot.box,
            frame_size=shot.source_size,
            thumbnail=thumbnail(shot) if self._rules.thumbnails else None,
            shots=shots,
        )

    def _conclude(self, ended: Sequence[Story]) -> None:
        """Says who left and why they gave no probe, and forgets what is not needed any more."""
        for story in (*ended, *self._left):
            if not story.probes:
                self.counts.unidentified[main_reason(story)] += 1
            self._presence.end(story)
        self._left.clear()
        self._shots.keep_only(self._tracker.tracks + self._still_tracker.tracks)


def _patient(rules: PipelineRules) -> ShotRules:
    """Where liveness decides, no shot is so good that it goes out before several looks are had."""
    if rules.liveness.policy == "refuse":
        return replace(rules.shots, good_enough=float("inf"))
    return rules.shots
