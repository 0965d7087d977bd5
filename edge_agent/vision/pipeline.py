"""The pipeline of one camera: frame → detection → track → best shot → template → probe → outbox."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.camera import Frame
from edge_agent.config.camera import DetectionSettings
from edge_agent.config.settings import LivenessSettings, ShotSettings
from edge_agent.vision.best_shot import ShotTuning
from edge_agent.vision.face_search import FaceDetector, FaceSearch
from edge_agent.vision.fingerprints import SceneCutDetector, face_fingerprint
from edge_agent.vision.identity_guard import is_covered
from edge_agent.vision.load_profile import LoadProfile
from edge_agent.vision.presence import Presence, main_reason
from edge_agent.vision.probe import Probe
from edge_agent.vision.quality_gate import GateModels, JudgedShot, QualityGate
from edge_agent.vision.recognition_ledger import TrackLedger
from edge_agent.vision.shot import take_shot, thumbnail
from edge_agent.vision.track_events import TrackSink
from edge_agent.vision.track_history import DueShot, TrackHistories, TrackHistory, take_last
from edge_agent.vision.tracker import Track, Tracker
from models.alignment import alignable
from models.quality.gates import DOORWAY, OFF, PASSPORT
from models.types import BgrImage, Detections, Shapes
from shared.ids import new_id
from shared.wire.quality import Quality
from shared.wire.template import Template

log = logging.getLogger(__name__)

_GATES: Final = {"doorway": DOORWAY, "passport": PASSPORT, "off": OFF}
_JITTER_S: Final = 0.5  # a stream time that is earlier by less does not begin a new stream


class Faces(FaceDetector, GateModels, Protocol):
    """The part of `models.face_models.FaceModels` that the pipeline uses."""

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
    """Receives the probes; in the agent, `edge_agent.outbox.outbox.Outbox`."""

    def put(self, probes: Sequence[Probe]) -> int: ...


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """The settings of one camera's pipeline."""

    detection: DetectionSettings = field(default_factory=DetectionSettings)
    shots: ShotSettings = field(default_factory=ShotSettings)
    liveness: LivenessSettings = field(default_factory=LivenessSettings)
    tuning: ShotTuning = field(default_factory=ShotTuning)


@dataclass(slots=True)
class PipelineCounts:
    """Counters of one camera's pipeline. Its thread writes them, others read them for reports."""

    frames: int = 0
    searched: int = 0  # frames that were searched for faces
    tracks: int = 0  # confirmed ones
    embeddings: int = 0
    probes: int = 0
    unidentified: Counter[str] = field(default_factory=Counter)
    """Tracks that ended without a probe, by the main reason."""


class Pipeline:
    """Makes probes of one camera's frames. Not thread-safe; `models` may be shared.

    Any thread may set `load_profile`; it applies from the next frame on.
    """

    def __init__(
        self,
        models: Faces,
        sink: ProbeSink,
        settings: PipelineSettings | None = None,
        *,
        tracks: TrackSink | None = None,
        ledger: TrackLedger | None = None,
    ) -> None:
        settings = settings or PipelineSettings()
        self._models = models
        self._sink = sink
        self._settings = settings
        self._gate = _GATES[settings.shots.gate]
        self.counts = PipelineCounts()
        self.load_profile = LoadProfile()
        self._search = FaceSearch(models, settings.detection)
        self._scene = SceneCutDetector()
        self._tracker = Tracker(settings.shots)
        self._still_tracker = Tracker(stills=True)
        self._histories = TrackHistories(settings.shots, _tuning(settings))
        self._quality_gate = QualityGate(models, self._gate, settings.liveness)
        self._presence = Presence(tracks, ledger)
        self._split_after_end: list[TrackHistory] = []  # of persons noticed when they had left
        self._previous: tuple[float, tuple[int, int]] | None = None  # the last frame's time, size

    @property
    def in_view(self) -> int:
        """How many confirmed faces are before the camera now."""
        return self._presence.in_view

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The live tracks after the newest frame, oldest first."""
        return self._tracker.tracks

    def step(self, frame: Frame) -> None:
        """Processes one frame. When it returns, new probes are in the sink."""
        self.counts.frames += 1
        profile = self.load_profile
        if not frame.alone:
            frame = self._in_order(frame)
        self._presence.set_time(frame.camera, frame.captured_at, frame.time_s)
        detections = self._detect(frame, profile)
        tracks, ended = self._track(frame, detections)
        if detections is not None:
            self._assess(frame, detections, tracks, profile)
        due = self._histories.take_due(tracks, frame.time_s) + take_last(ended)
        self._publish(self._embed(self._judge(due, profile)))
        self._conclude(ended)
        if frame.alone:
            self.finish()

    def finish(self) -> None:
        """Ends all tracks and puts their waiting best shots into the sink."""
        ended = self._histories.end((*self._tracker.end_all(), *self._still_tracker.end_all()))
        self._publish(self._embed(self._judge(take_last(ended), self.load_profile)))
        self._conclude(ended)

    def _in_order(self, frame: Frame) -> Frame:
        """The frame, never earlier than the previous one.

        All tracks end where the stream starts again, in time or with pictures of another size.
        """
        time_s = frame.time_s
        if self._previous is not None:
            previous_s, size = self._previous
            if time_s < previous_s - _JITTER_S or frame.size != size:
                self.finish()
                self._search = FaceSearch(self._models, self._settings.detection)
            elif time_s < previous_s:
                frame = replace(frame, time_s=previous_s)
        self._previous = frame.time_s, frame.size
        return frame

    def _detect(self, frame: Frame, profile: LoadProfile) -> Detections | None:
        """The faces of the frame; None where it was not searched."""
        settled = self._histories.are_settled(self._tracker.tracks, frame.time_s)
        detections = self._search.search(frame, profile, settled=settled)
        self.counts.searched += detections is not None
        return detections

    def _track(
        self, frame: Frame, detections: Detections | None
    ) -> tuple[tuple[Track, ...], list[TrackHistory]]:
        """The live tracks, and the histories of those that this frame ended."""
        tracker = self._still_tracker if frame.alone else self._tracker
        if detections is None and not self._search.still:
            return tracker.tracks, []
        cut: tuple[Track, ...] = ()
        if detections is None:
            step = tracker.hold(frame.time_s)
        else:
            cut = self._tracker.end_all() if self._scene.is_cut(frame.image) else ()
            corners = [(x1, y1, x2, y2) for x1, y1, x2, y2 in detections.boxes.tolist()]
            fingerprints = [face_fingerprint(frame.image, box) for box in corners]
            step = tracker.update(detections.boxes, frame.time_s, fingerprints)
        self.counts.tracks += self._presence.begin_new(step.tracks)
        return step.tracks, self._histories.end((*cut, *step.ended))

    def _assess(
        self, frame: Frame, detections: Detections, tracks: Sequence[Track], profile: LoadProfile
    ) -> None:
        """Assesses the faces that could become best shots, and keeps those that do."""
        chosen = self._histories.choose_for_assessment(tracks, frame.time_s)
        if not chosen:
            return
        faces = detections.take(np.array([track.row for track in chosen], np.intp))
        shapes = self._models.locate(frame.image, faces)
        usable = np.flatnonzero(alignable(shapes.points5))
        if len(usable) < len(chosen):  # points that form no face: another frame will be better
            chosen = [chosen[row] for row in usable.tolist()]
            faces, shapes = faces.take(usable), shapes.take(usable)
        if not chosen:
            return
        chips = self._models.align(frame.image, shapes.points5)
        qualities = self._models.assess(frame.image, faces, shapes, chips=chips, gate=self._gate)
        passing = []
        for index, (track, quality) in enumerate(zip(chosen, qualities, strict=True)):
            history = self._histories.of(track)
            history.recognize(chips[index])
            if not quality.passed:
                history.poor_frames.update(quality.reasons)
                continue
            passing.append((history, faces.boxes[index]))
            if history.shots.beats(quality, frame.time_s):
                row = np.array([index])
                history.shots.offer(
                    take_shot(frame, faces.take(row), shapes.take(row), chips[index], quality)
                )
        self._quality_gate.watch_liveness(frame, passing, profile)

    def _judge(self, due: Sequence[DueShot], profile: LoadProfile) -> list[JudgedShot]:
        """The due shots that pass the quality gate."""
        passed = []
        for due_shot in due:
            judged = self._quality_gate.judge(due_shot, profile)
            if judged.quality.passed:
                passed.append(judged)
            else:
                judged.history.refuse(judged.shot, judged.quality)
        return passed

    def _embed(self, judged: Sequence[JudgedShot]) -> list[tuple[JudgedShot, Template]]:
        """The templates of all shots of one frame, as one batch."""
        if not judged:
            return []
        templates = self._models.embed(np.concatenate([self._chips(shot) for shot in judged]))
        self.counts.embeddings += len(templates)
        return list(zip(judged, templates, strict=True))

    def _chips(self, judged: JudgedShot) -> NDArray[np.uint8]:
        """The chip (1, height, width, 3) of a shot for the embedder."""
        shot = judged.shot
        return self._models.embedding_chips(
            shot.scene, shot.scene_points5, shot.chip[np.newaxis], [judged.quality]
        )

    def _publish(self, embedded: Sequence[tuple[JudgedShot, Template]]) -> None:
        """Makes probes of the shots that are worth it, and puts them into the sink."""
        probes = []
        for judged, template in embedded:
            history, shot = judged.history, judged.shot
            comparison = history.guard.compare(shot, judged.quality, template)
            if comparison == "another":
                history = self._split(history, shot.time_s)
            elif comparison == "unsure" or not history.shots.is_worth_a_probe(shot, template):
                continue
            fused, shots = history.shots.publish(shot, template)
            history.free_probes += not is_covered(judged.quality)
            probes.append(self._probe(judged, history, fused, shots))
        if probes:
            self._sink.put(probes)
            self.counts.probes += len(probes)

    def _split(self, history: TrackHistory, began_s: float) -> TrackHistory:
        """Gives the person that a track went over to a track of their own."""
        track = self._tracker.split(history.track_id)
        track_id = new_id() if track is None else track.track_id
        log.info("Camera %s: split a track that went over to another face", self._presence.camera)
        other = self._histories.split(history, track_id, began_s)
        self._presence.end(history)
        self._presence.begin(track_id, began_s)
        self.counts.tracks += 1
        if track is None:  # the track has ended already: `_conclude` ends the new one
            self._split_after_end.append(other)
        return other

    def _probe(
        self, judged: JudgedShot, history: TrackHistory, template: Template, shots: int
    ) -> Probe:
        shot = judged.shot
        return Probe(
            probe_id=new_id(),
            camera=self._presence.camera,
            captured_at=shot.captured_at,
            track_id=history.track_id,
            template=template,
            quality=judged.quality,
            pose=judged.pose,
            liveness=history.liveness.median,
            detection_score=float(np.clip(shot.detection.scores[0], 0, 1)),
            box=shot.box,
            frame_size=shot.source_size,
            thumbnail=thumbnail(shot) if self._settings.shots.thumbnails else None,
            shots=shots,
        )

    def _conclude(self, ended: Sequence[TrackHistory]) -> None:
        """Reports the tracks that ended, and drops the histories of unconfirmed ones."""
        for history in (*ended, *self._split_after_end):
            if not history.probes:
                self.counts.unidentified[main_reason(history)] += 1
            self._presence.end(history)
        self._split_after_end.clear()
        self._histories.keep_only(self._tracker.tracks + self._still_tracker.tracks)


def _tuning(settings: PipelineSettings) -> ShotTuning:
    """Where a low liveness refuses, every first shot waits until there are several scores."""
    if settings.liveness.policy == "refuse":
        return replace(settings.tuning, good_enough=float("inf"))
    return settings.tuning
