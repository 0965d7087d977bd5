"""When frames are searched, and how closely: in worlds of known truth."""

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
from tests.support.fake_faces import FakeFaces, Sink, Someone, frame_of

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
    """A sensor's hiss of five grey levels: eight different ones, in turns."""
    return np.clip(picture + noise(index % 8), 0, 255).astype(np.uint8)


class Finder:
    """Finds the boxes that it is told, and remembers how it was asked."""

    def __init__(self) -> None:
        self.near: list[list[float]] = []
        self.far: list[list[float]] = []  # of the closer look only
        self.asked: list[str] = []

    def detect(
        self, image: BgrImage, *, retry_padded: bool = False, closer: bool = False
    ) -> Detections:
        self.asked.append("far" if closer else "near")
        boxes = self.near + (self.far if closer else [])
        return Detections(
            np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32)
        )


def watch(
    finder: Finder,
    settings: DetectionSettings,
    seconds: float,
    picture: Callable[[int], Picture] = lambda _: wall(),
    profile: LoadProfile = LoadProfile(),  # noqa: B008  # frozen
    search: FaceSearch | None = None,
    first: int = 0,
) -> list[bool]:
    """Which of the frames were searched."""
    search = search or FaceSearch(finder, settings)
    frames = range(first, first + round(seconds * FPS))
    return [
        search.search(Frame(picture(index), MOMENT, index / FPS, index, "door"), profile)
        is not None
        for index in frames
    ]


def test_an_empty_corridor_is_searched_every_two_seconds_however_its_sensor_hisses() -> None:
    searched = watch(
        Finder(), DetectionSettings(faces="near"), 10, lambda index: noisy(wall(), index)
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


def test_who_walks_in_is_searched_for_at_once_and_as_long_as_they_move() -> None:
    searched = watch(Finder(), DetectionSettings(faces="near"), 8, walker)
    assert all(searched[108:200])


def test_what_changes_slowly_adds_up_until_it_is_seen() -> None:
    """Grey level by grey level, a poster fades in: never two frames that differ."""
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


def test_a_picture_as_small_as_a_stamp_is_watched_too() -> None:
    detector = MotionDetector()
    assert detector.has_moved(wall(size=(60, 40)))
    detector.set_reference()
    assert not detector.has_moved(wall(size=(60, 40)))


def test_who_stands_still_keeps_their_track_though_nothing_moves() -> None:
    models, sink = FakeFaces(lambda _: [Someone(1, 300)]), Sink()
    pipeline = Pipeline(models, sink)
    for index in range(500):
        pipeline.step(frame_of(lambda _: [Someone(1, 300)], index))
        assert pipeline.in_view == (index >= 1)
    pipeline.finish()
    assert (pipeline.counts.tracks, len(sink.probes), sum(models.batches)) == (1, 1, 1)
    assert pipeline.counts.searched < 60


def test_a_face_that_only_a_closer_look_finds_keeps_the_camera_looking_closer() -> None:
    finder = Finder()
    finder.near = [[400, 100, 460, 160]]
    finder.far = [[100, 100, 140, 150]]
    settings = DetectionSettings(motion=False)
    search = FaceSearch(finder, settings)
    searched = watch(finder, settings, 4, search=search)
    assert finder.asked[:2] == ["near", "far"]
    assert "near" not in finder.asked[2:], "it stays with the closer look"
    assert 20 < sum(searched) < 30, "seven times a second, not twenty-five"
    finder.far = []
    finder.asked.clear()
    watch(finder, settings, 20, search=search, first=100)
    assert finder.asked[-50:].count("far") == 0, "until there is nobody far any more"


@pytest.mark.parametrize(
    "far", [[[100, 100, 115, 118]], [[402, 102, 462, 158]]], ids=["too small to use", "found twice"]
)
def test_a_closer_look_that_finds_nothing_of_use_is_not_stayed_with(far: list[list[float]]) -> None:
    finder = Finder()
    finder.near = [[400, 100, 460, 160]]
    finder.far = far
    searched = watch(finder, DetectionSettings(motion=False), 10)
    assert all(searched)
    assert finder.asked.count("far") == 3, "one in four seconds"


def test_near_never_looks_closer_and_far_always_does() -> None:
    near, far = Finder(), Finder()
    watch(near, DetectionSettings(motion=False, faces="near"), 10)
    assert set(near.asked) == {"near"}
    watch(far, DetectionSettings(motion=False, faces="far"), 10)
    assert set(far.asked) == {"far"}


def test_knobs_take_away_what_the_settings_allow() -> None:
    finder = Finder()
    settings = DetectionSettings(motion=False, faces="far", detect_every=2)
    searched = watch(finder, settings, 4, profile=LoadProfile(detect_every=5, closer_looks=False))
    assert sum(searched) == 20
    assert set(finder.asked) == {"near"}
    assert LoadProfile().reductions == []
    assert LoadProfile(detect_every=4, liveness=False).reductions == ["detect_every=4", "liveness"]


def test_without_liveness_and_occlusion_knobs_those_models_are_not_run() -> None:
    models = FakeFaces(lambda _: [Someone(1, 300)])
    pipeline = Pipeline(models, Sink(), PipelineSettings())
    pipeline.load_profile = LoadProfile(liveness=False, occlusion=False)
    for index in range(30):
        pipeline.step(frame_of(lambda _: [Someone(1, 300)], index))
    assert (models.liveness_looks, models.occlusion_looks) == (0, 0)
    assert pipeline.counts.probes == 1
