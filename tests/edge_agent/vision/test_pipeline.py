"""The pipeline in scenes with a known truth: its costs and its probes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edge_agent.capture.camera import Frame
from edge_agent.config.camera import DetectionSettings
from edge_agent.config.settings import ShotSettings
from edge_agent.vision.best_shot import ShotTuning
from edge_agent.vision.pipeline import Pipeline, PipelineSettings
from tests.support.fake_faces import FakeFace, FakeFaces, Scene, Sink, frame_of, person_of

SETTINGS = PipelineSettings(shots=ShotSettings(keep_missed_s=0.4))


def watch(
    scene: Scene,
    frames: int,
    *,
    settings: PipelineSettings = SETTINGS,
    backdrop: Callable[[int], int] = lambda _: 0,
    turned: Callable[[int], bool] = lambda _: False,
    finish: bool = True,
) -> tuple[FakeFaces, Sink, Pipeline]:
    models, sink = FakeFaces(scene, turned=turned), Sink()
    pipeline = Pipeline(models, sink, settings)
    for index in range(frames):
        pipeline.step(frame_of(scene, index, backdrop=backdrop(index)))
    if finish:
        pipeline.finish()
    return models, sink, pipeline


def test_a_person_who_stands_still_for_ten_seconds_costs_one_embedding() -> None:
    models, sink, pipeline = watch(lambda _: [FakeFace(1, 300)], 250)
    assert models.batches == [1]
    assert len(sink.probes) == 1
    assert pipeline.counts.tracks == 1
    assert models.looks < 80, "after the first probe, the face is assessed rarely"


def test_the_first_probe_comes_early_and_of_the_best_of_the_first_shots() -> None:
    scores = {4: 0.6}
    _, sink, _ = watch(
        lambda index: [FakeFace(1, 300, score=scores.get(index, 0.4))], 12, finish=False
    )
    (probe,) = sink.probes
    assert probe.quality.score == pytest.approx(0.6)
    assert probe.captured_at.microsecond == 4 * 40_000


def test_a_very_good_first_shot_becomes_a_probe_at_once() -> None:
    _, sink, _ = watch(lambda _: [FakeFace(1, 300, score=0.9)], 3, finish=False)
    assert len(sink.probes) == 1


def test_a_clearly_better_shot_makes_another_probe_of_the_same_track() -> None:
    scene: Scene = lambda index: [FakeFace(1, 300, score=0.4 if index < 60 else 0.6)]  # noqa: E731
    models, sink, _ = watch(scene, 120)
    assert [round(probe.quality.score, 1) for probe in sink.probes] == [0.4, 0.6]
    assert len({probe.track_id for probe in sink.probes}) == 1
    assert len({probe.probe_id for probe in sink.probes}) == 2
    assert sum(models.batches) == 2


def test_a_better_shot_that_waited_becomes_a_probe_when_the_track_ends() -> None:
    # Better by more than the final margin, by less than the margin of a probe before the end.
    scene: Scene = lambda index: [FakeFace(1, 300, score=0.4 + 0.06 * (index > 60))]  # noqa: E731
    gone: Scene = lambda index: scene(index) if index < 100 else []  # noqa: E731
    _, sink, _ = watch(gone, 140, finish=False)
    assert [round(probe.quality.score, 2) for probe in sink.probes] == [0.4, 0.46]


def test_a_track_that_keeps_improving_makes_a_bounded_number_of_probes() -> None:
    models, sink, _ = watch(lambda index: [FakeFace(1, 300, score=min(1, 0.1 + index / 800))], 720)
    assert len(sink.probes) == ShotSettings().max_probes
    assert sum(models.batches) <= ShotTuning().max_embeddings


def test_faces_of_one_frame_are_embedded_as_one_batch() -> None:
    models, sink, _ = watch(lambda _: [FakeFace(who, 100 * who) for who in (1, 2, 3)], 30)
    assert models.batches == [3]
    assert sorted(map(person_of, sink.probes)) == [1, 2, 3]
    assert len({probe.track_id for probe in sink.probes}) == 3
    assert sink.puts == [3], "and stored together"


def test_a_face_below_the_gate_is_neither_judged_nor_embedded_but_its_reason_is_known() -> None:
    models, sink, pipeline = watch(lambda _: [FakeFace(1, 300, passes=False)], 60)
    assert (models.batches, models.judged, sink.probes) == ([], 0, [])
    assert pipeline.counts.unidentified == Counter({"sharpness": 1})


def test_a_face_that_only_the_pose_model_refuses_is_judged_rarely() -> None:
    models, sink, pipeline = watch(lambda _: [FakeFace(1, 300)], 100, turned=lambda _: True)
    assert sink.probes == []
    assert models.batches == []
    assert 1 < models.judged <= 12, "four seconds, not a judgement a frame"
    assert pipeline.counts.unidentified == Counter({"yaw": 1})


def test_occlusion_is_computed_for_due_shots_only() -> None:
    models, sink, _ = watch(lambda _: [FakeFace(1, 300)], 250)
    assert len(sink.probes) == 1
    assert models.occlusion_looks == models.judged == 1 < models.looks


def test_a_detection_in_one_frame_is_no_track() -> None:
    _, sink, pipeline = watch(lambda index: [FakeFace(1, 300, score=0.9)] * (index == 5), 30)
    assert sink.probes == []
    assert pipeline.counts.tracks == 0


def test_a_scene_cut_does_not_join_two_people_in_one_place() -> None:
    scene: Scene = lambda index: [FakeFace(1 if index < 50 else 2, 300)]  # noqa: E731
    _, sink, pipeline = watch(scene, 100, backdrop=lambda index: int(index >= 50))
    assert [person_of(probe) for probe in sink.probes] == [1, 2]
    assert len({probe.track_id for probe in sink.probes}) == 2
    assert pipeline.counts.tracks == 2


def test_another_face_in_the_same_place_before_the_same_wall_becomes_a_track_of_its_own() -> None:
    scene: Scene = lambda index: [FakeFace(1 if index < 100 else 2, 300)]  # noqa: E731
    _, sink, pipeline = watch(scene, 200)
    assert [person_of(probe) for probe in sink.probes] == [1, 2]
    assert len({probe.track_id for probe in sink.probes}) == 2
    assert pipeline.counts.tracks == 2


def test_no_track_ever_holds_two_people_though_they_change_places_often() -> None:
    scene: Scene = lambda index: [FakeFace(1 + index // 60 % 3, 300, score=0.5)]  # noqa: E731
    _, sink, _ = watch(scene, 600)
    people: dict[str, set[int]] = {}
    for probe in sink.probes:
        people.setdefault(probe.track_id, set()).add(person_of(probe))
    assert all(len(who) == 1 for who in people.values())
    assert {one for who in people.values() for one in who} == {1, 2, 3}


def test_a_face_that_was_hidden_and_looks_the_same_is_not_embedded_again() -> None:
    scene: Scene = lambda index: [FakeFace(1, 300)] * (not 50 <= index < 56)  # noqa: E731
    models, sink, _ = watch(scene, 150)
    assert len(sink.probes) == 1
    assert sum(models.batches) == 1


def test_the_check_of_a_doubted_track_that_shows_the_same_person_is_fused_with_its_probe() -> None:
    # Hidden for a moment, and then in another light: the track is doubted, checked, and the same.
    scene: Scene = lambda index: [FakeFace(1, 300)] * (not 50 <= index < 56)  # noqa: E731
    models, sink = FakeFaces(scene), Sink()
    pipeline = Pipeline(models, sink, SETTINGS)
    for index in range(150):
        frame = frame_of(scene, index)
        if index >= 56:  # a lamp from the left
            lamp = np.linspace(250, 0, 60).astype(np.uint8)[None, :, None]
            frame.image[150:210, 270:330, 1:] = lamp
        pipeline.step(frame)
    pipeline.finish()
    assert [(person_of(probe), probe.shots) for probe in sink.probes] == [(1, 1), (1, 2)]
    assert len({probe.track_id for probe in sink.probes}) == 1
    assert sum(models.batches) == 2


def shown(index: int, person: int = 1, x: float = 300, **what: bool) -> list[FakeFace]:
    return [FakeFace(person, x, features=True, **what)]


def test_a_face_that_looks_as_it_did_when_aligned_is_not_embedded_again() -> None:
    def scene(index: int) -> list[FakeFace]:
        return shown(index) if not 50 <= index < 56 else []

    models, sink = FakeFaces(scene), Sink()
    pipeline = Pipeline(models, sink, SETTINGS)
    for index in range(150):
        frame = frame_of(scene, index)
        if index >= 56:  # a lamp from the left: the box looks like another face's
            lamp = np.linspace(250, 0, 60).astype(np.uint8)[None, :, None]
            frame.image[150:210, 270:330, 1:] = lamp
        pipeline.step(frame)
    pipeline.finish()
    assert models.batches == [1]
    assert len(sink.probes) == 1


def test_a_face_that_is_half_covered_for_a_moment_stays_one_person() -> None:
    """A person passes behind a post: one track, one probe."""

    def scene(index: int) -> list[FakeFace]:
        if 100 <= index < 115:
            return []
        return shown(index, x=100 + 2 * index, covered=94 <= index < 100)

    models, sink, pipeline = watch(scene, 200, settings=PipelineSettings())
    assert [person_of(probe) for probe in sink.probes] == [1]
    assert pipeline.counts.tracks == 1
    assert sum(models.batches) <= 2


def test_a_person_who_stays_behind_a_post_gives_no_probe_of_half_a_face() -> None:
    scene: Scene = lambda index: (  # noqa: E731
        shown(index, covered=index >= 94) if index < 100 else []
    )
    _, sink, pipeline = watch(scene, 200)
    assert [person_of(probe) for probe in sink.probes] == [1]
    assert pipeline.counts.tracks == 1


def test_another_person_who_stays_half_covered_becomes_a_track_after_two_templates() -> None:
    scene: Scene = lambda index: shown(index, 1 if index < 100 else 2, covered=index >= 100)  # noqa: E731
    models, sink, pipeline = watch(scene, 200)
    assert pipeline.counts.tracks == 2
    assert len({probe.track_id for probe in sink.probes}) == 2
    assert sum(models.batches) == 3


def test_a_doubt_from_before_the_first_probe_is_settled_after_it() -> None:
    """The face changes between the best shot and the probe of it."""

    def scene(index: int) -> list[FakeFace]:
        return [FakeFace(1, 300, score=0.7)] if index < 3 else [FakeFace(2, 300, score=0.4)]

    _, sink, _ = watch(scene, 120)
    assert [person_of(probe) for probe in sink.probes] == [1, 2]
    assert len({probe.track_id for probe in sink.probes}) == 2


def test_a_track_that_is_doubted_for_a_minute_costs_little_and_still_notices_another() -> None:
    def scene(index: int) -> list[FakeFace]:
        hidden = index % 50 < 5  # every two seconds a person walks past
        return [] if hidden else [FakeFace(1 if index < 1500 else 2, 300)]

    models, sink, _ = watch(scene, 2600)
    people = {probe.track_id: person_of(probe) for probe in sink.probes}
    assert list(people.values()) == [1, 2]
    assert all(person_of(probe) == people[probe.track_id] for probe in sink.probes)
    assert len(sink.probes) <= 2 * ShotSettings().max_probes
    assert sum(models.batches) < 40


def test_each_still_is_a_scene_of_its_own() -> None:
    scene: Scene = lambda index: [FakeFace(1, 300)]  # noqa: E731
    models, sink = FakeFaces(scene), Sink()
    pipeline = Pipeline(models, sink, SETTINGS)
    for index in range(3):
        pipeline.step(frame_of(scene, index, alone=True))
    assert len({probe.track_id for probe in sink.probes}) == 3


def test_frames_between_detections_cost_nothing_and_tracks_go_on() -> None:
    settings = PipelineSettings(detection=DetectionSettings(detect_every=5))
    _, sink, pipeline = watch(lambda index: [FakeFace(1, 200 + 2 * index)], 100, settings=settings)
    assert pipeline.counts.searched == 20
    assert len({probe.track_id for probe in sink.probes}) == 1


def test_while_all_faces_in_view_are_known_every_second_frame_is_searched() -> None:
    settings = PipelineSettings(detection=DetectionSettings(motion=False, faces="near"))
    _, _, pipeline = watch(lambda index: [FakeFace(1, 200 + index)], 200, settings=settings)
    assert 100 <= pipeline.counts.searched <= 108
    empty = watch(lambda _: [], 200, settings=settings)[2]
    assert empty.counts.searched == 200, "every frame of an empty room is searched"


@pytest.mark.parametrize("arrival", [100, 101])
def test_a_second_person_has_a_probe_within_300_ms(arrival: int) -> None:
    settings = PipelineSettings(detection=DetectionSettings(motion=False, faces="near"))

    def scene(index: int) -> list[FakeFace]:
        return [FakeFace(1, 150), *([FakeFace(2, 450, score=0.5)] if index >= arrival else [])]

    _, sink, _ = watch(scene, arrival + round(0.3 * 25) + 1, settings=settings, finish=False)
    assert [person_of(probe) for probe in sink.probes] == [1, 2]


def test_open_tracks_give_their_probes_when_the_agent_stops() -> None:
    _, sink, pipeline = watch(lambda _: [FakeFace(1, 300, score=0.3)], 4, finish=False)
    assert sink.probes == []
    pipeline.finish()
    assert len(sink.probes) == 1


def test_a_probe_holds_all_data_of_its_shot() -> None:
    _, sink, _ = watch(lambda _: [FakeFace(3, 300, y=100)], 20)
    (probe,) = sink.probes
    assert probe.box == pytest.approx((270, 70, 330, 130))
    assert probe.frame_size == (640, 360)
    assert probe.camera == "door"
    assert probe.liveness == pytest.approx(0.75)
    assert probe.pose is not None
    assert probe.thumbnail is not None
    assert probe.thumbnail.startswith(b"\xff\xd8\xff")
    assert len(probe.thumbnail) <= 65_536
    assert probe.message("box", 1).track_id == probe.track_id


@pytest.mark.parametrize("x", [-20.0, 5.0, 635.0, 655.0])
def test_a_face_at_the_edge_of_the_picture_does_no_harm(x: float) -> None:
    _, sink, _ = watch(lambda _: [FakeFace(1, x, y=0.0)], 20)
    assert len(sink.probes) == 1


def test_thirty_faces_at_once_are_tracked_and_embedded_together() -> None:
    crowd = [
        FakeFace(i % 16, 30 + 60 * (i % 10), y=60 + 110 * (i // 10), size=40) for i in range(30)
    ]
    models, sink, pipeline = watch(lambda _: crowd, 30)
    assert models.batches == [30]
    assert len(sink.probes) == 30
    assert pipeline.counts.tracks == 30


def restless(change: Callable[[Frame, int], Frame], frames: int = 150) -> tuple[Sink, Pipeline]:
    """A person stands in the first 100 frames; `change` replaces the frames."""
    scene: Scene = lambda index: [FakeFace(1, 300)] * (index < 100)  # noqa: E731
    sink = Sink()
    pipeline = Pipeline(FakeFaces(scene), sink, SETTINGS)
    for index in range(frames):
        pipeline.step(change(frame_of(scene, index), index))
    return sink, pipeline


@pytest.mark.parametrize("hours", [-1, -10_000])
def test_a_stream_whose_time_goes_back_starts_again(hours: int) -> None:
    def leaping(frame: Frame, index: int) -> Frame:
        return replace(frame, time_s=frame.time_s + 3600.0 * hours * (index >= 50))

    sink, pipeline = restless(leaping)
    assert [person_of(probe) for probe in sink.probes] == [1, 1]
    assert pipeline.counts.tracks == 2
    assert pipeline.tracks == ()
    assert pipeline.in_view == 0, "a person who left does not stay in view"


def test_a_stream_with_a_small_error_in_time_goes_on() -> None:
    def stumbling(frame: Frame, index: int) -> Frame:
        return replace(frame, time_s=frame.time_s - 0.1 * (index % 10 == 5))

    sink, pipeline = restless(stumbling)
    assert len(sink.probes) == 1
    assert pipeline.counts.tracks == 1
    assert pipeline.in_view == 0


def test_pictures_of_another_size_are_another_view() -> None:
    def shrinking(frame: Frame, index: int) -> Frame:
        return replace(frame, image=frame.image[:300, :500]) if index >= 50 else frame

    sink, pipeline = restless(shrinking)
    assert [probe.frame_size for probe in sink.probes] == [(640, 360), (500, 300)]
    assert len({probe.track_id for probe in sink.probes}) == 2
    assert pipeline.in_view == 0


def test_boxes_without_area_or_outside_of_the_picture_are_no_faces() -> None:
    there = FakeFace(1, 300)
    odd = [
        FakeFace(2, 100, size=0),
        FakeFace(3, -500, y=-500),
        FakeFace(4, 5000, y=5000, size=4000),
    ]
    sink = Sink()
    pipeline = Pipeline(FakeFaces(lambda _: [there, *odd]), sink, SETTINGS)
    for index in range(30):
        pipeline.step(frame_of(lambda _: [there], index))
    pipeline.finish()
    assert [person_of(probe) for probe in sink.probes] == [1]


def test_a_face_with_invalid_points_is_skipped_and_the_others_are_not() -> None:
    scene: Scene = lambda index: [  # noqa: E731
        FakeFace(1, 150, pointless=True),
        FakeFace(2, 400, pointless=index < 10),
    ]
    _, sink, pipeline = watch(scene, 40)
    assert [person_of(probe) for probe in sink.probes] == [2]
    assert pipeline.counts.tracks == 2
