"""Which frames are searched, and how closely, in scenes with a known truth."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.capture.camera import Frame
from edge_agent.config.camera import DetectionSettings
from edge_agent.vision.face_search import FaceSearch
from edge_agent.vision.load_profile import LoadProfile
from edge_agent.vision.motion import MotionDetector
from edge_agent.vision.pipeline import Pipeline, PipelineSettings
from models.types import BgrImage, Detections
from tests.support.fake_faces import FakeFace, FakeFaces, Sink, frame_of

FPS = 25
MOMENT = datetime(2026, 11, 22, tzinfo=UTC)
Picture = NDArray[np.uint8]


@cache
def wall(size: tuple[int, int] = (640, 360)) -> Picture:
    coarse = np.random.default_rng(1).integers(60, 200, (size[1] // 20, size[0] // 20, 3))
    return np.repeat(np.repeat(coarse, 20, axis=0), 20, axis=1).astype(np.uint8)


@cache
def noise(seed: int) -> NDArray[np.int16]:
    return np.random.default_rng(seed).normal(0, 5, (360, 640, 3)).astype(np.int16)


def noisy(picture: Picture, index: int) -> Picture:
    """Adds one of eight noise patterns of five grey levels."""
    return np.clip(picture + noise(index % 8), 0, 255).astype(np.uint8)


class FakeDetector:
    """A detector with given boxes. It records each call."""

    def __init__(self) -> None:
        self.near: list[list[float]] = []
        self.far: list[list[float]] = []  # of the closer search only
        self.calls: list[str] = []

    def detect(
        self, image: BgrImage, *, retry_padded: bool = False, closer: bool = False
    ) -> Detections:
        self.calls.append("far" if closer else "near")
        boxes = self.near + (self.far if closer else [])
        return Detections(
            np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32)
        )


def watch(
    detector_model: FakeDetector,
    settings: DetectionSettings,
    seconds: float,
    picture: Callable[[int], Picture] = lambda _: wall(),
    profile: LoadProfile = LoadProfile(),  # noqa: B008  # frozen
    search: FaceSearch | None = None,
    first: int = 0,
) -> list[bool]:
    """Returns for each frame whether it was searched."""
    search = search or FaceSearch(detector_model, settings)
    frames = range(first, first + round(seconds * FPS))
    return [
        search.search(Frame(picture(index), MOMENT, index / FPS, index, "door"), profile)
        is not None
        for index in frames
    ]


def test_an_empty_corridor_is_searched_every_two_seconds_despite_noise() -> None:
    searched = watch(
        FakeDetector(), DetectionSettings(faces="near"), 10, lambda index: noisy(wall(), index)
    )
    assert sum(searched[25:]) == pytest.approx(5, abs=1)


def test_light_that_changes_as_a_whole_is_no_motion() -> None:
    def dimming(index: int) -> Picture:
        return noisy((wall() * (1.0 - 0.1 * np.sin(index / 30))).astype(np.uint8), index)

    detector = MotionDetector()
    detector.has_moved(dimming(0))
    detector.set_reference()
    assert not any(detector.has_moved(dimming(index)) for index in range(1, 100))


def walker(index: int) -> Picture:
    picture = noisy(wall(), index)
    if index >= 100:
        left = 2 * (index - 100)
        picture[100:140, left : left + 32] = 220  # a face of a twentieth of the width
    return picture


def test_a_person_who_walks_in_is_searched_for_at_once_and_while_they_move() -> None:
    searched = watch(FakeDetector(), DetectionSettings(faces="near"), 8, walker)
    assert all(searched[108:200])


def test_slow_changes_add_up_until_they_are_motion() -> None:
    """A poster fades in by one grey level at a time: two frames in a row never differ."""
    detector = MotionDetector()
    detector.has_moved(wall())
    detector.set_reference()
    seen = []
    for level in range(40):
        picture = wall().astype(np.int16)
        picture[100:200, 100:200] += level
        seen.append(detector.has_moved(np.clip(picture, 0, 255).astype(np.uint8)))
    assert not seen[1]
    assert seen[-1]


def test_a_very_small_picture_has_motion_too() -> None:
    detector = MotionDetector()
    assert detector.has_moved(wall(size=(60, 40)))
    detector.set_reference()
    assert not detector.has_moved(wall(size=(60, 40)))


def test_a_person_who_stands_still_keeps_their_track() -> None:
    models, sink = FakeFaces(lambda _: [FakeFace(1, 300)]), Sink()
    pipeline = Pipeline(models, sink)
    for index in range(500):
        pipeline.step(frame_of(lambda _: [FakeFace(1, 300)], index))
        assert pipeline.in_view == (index >= 1)
    pipeline.finish()
    assert (pipeline.counts.tracks, len(sink.probes), sum(models.batches)) == (1, 1, 1)
    assert pipeline.counts.searched < 60


def test_a_face_that_only_a_closer_search_finds_keeps_closer_searches_going() -> None:
    detector_model = FakeDetector()
    detector_model.near = [[400, 100, 460, 160]]
    detector_model.far = [[100, 100, 140, 150]]
    settings = DetectionSettings(motion=False)
    search = FaceSearch(detector_model, settings)
    searched = watch(detector_model, settings, 4, search=search)
    assert detector_model.calls[:2] == ["near", "far"]
    assert "near" not in detector_model.calls[2:], "the closer search goes on"
    assert 20 < sum(searched) < 30, "seven times a second, not twenty-five"
    detector_model.far = []
    detector_model.calls.clear()
    watch(detector_model, settings, 20, search=search, first=100)
    assert detector_model.calls[-50:].count("far") == 0, (
        "no closer search after far faces have left"
    )


@pytest.mark.parametrize(
    "far", [[[100, 100, 115, 118]], [[402, 102, 462, 158]]], ids=["too small to use", "found twice"]
)
def test_a_closer_search_without_usable_faces_does_not_go_on(far: list[list[float]]) -> None:
    detector_model = FakeDetector()
    detector_model.near = [[400, 100, 460, 160]]
    detector_model.far = far
    searched = watch(detector_model, DetectionSettings(motion=False), 10)
    assert all(searched)
    assert detector_model.calls.count("far") == 3, "one in four seconds"


def test_near_never_looks_closer_and_far_always_does() -> None:
    near, far = FakeDetector(), FakeDetector()
    watch(near, DetectionSettings(motion=False, faces="near"), 10)
    assert set(near.calls) == {"near"}
    watch(far, DetectionSettings(motion=False, faces="far"), 10)
    assert set(far.calls) == {"far"}


def test_a_load_profile_reduces_what_the_settings_allow() -> None:
    detector_model = FakeDetector()
    settings = DetectionSettings(motion=False, faces="far", detect_every=2)
    searched = watch(
        detector_model, settings, 4, profile=LoadProfile(detect_every=5, closer_looks=False)
    )
    assert sum(searched) == 20
    assert set(detector_model.calls) == {"near"}
    assert LoadProfile().reductions == []
    assert LoadProfile(detect_every=4, liveness=False).reductions == ["detect_every=4", "liveness"]


def test_a_load_profile_without_liveness_and_occlusion_does_not_run_those_models() -> None:
    models = FakeFaces(lambda _: [FakeFace(1, 300)])
    pipeline = Pipeline(models, Sink(), PipelineSettings())
    pipeline.load_profile = LoadProfile(liveness=False, occlusion=False)
    for index in range(30):
        pipeline.step(frame_of(lambda _: [FakeFace(1, 300)], index))
    assert (models.liveness_looks, models.occlusion_looks) == (0, 0)
    assert pipeline.counts.probes == 1
