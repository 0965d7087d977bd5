"""Stage times: right numbers, bounded memory."""

from edge_agent.diagnostics.stage_times import StageTimes, time_frames, timed_models
from edge_agent.vision.pipeline import Pipeline
from tests.support.fake_faces import FakeFace, FakeFaces, Scene, Sink, frame_of


def test_median_and_95th_percentile_are_of_what_was_added() -> None:
    times = StageTimes()
    for duration in range(1, 102):
        times.add("detect", float(duration))
    summary = times.summary()["detect"]
    assert (summary.median, summary.p95, summary.mean, summary.count) == (51, 96, 51, 101)


def test_the_newest_durations_replace_the_oldest() -> None:
    times = StageTimes()
    for duration in [1000.0] * 4096 + [1.0] * 4096:
        times.add("detect", duration)
    summary = times.summary()["detect"]
    assert (summary.median, summary.p95) == (1, 1)
    assert (summary.mean, summary.count) == (500.5, 8192)


def test_models_and_frames_of_a_pipeline_are_measured_without_its_help() -> None:
    times = StageTimes()
    scene: Scene = lambda _: [FakeFace(1, 300)]  # noqa: E731
    pipeline = Pipeline(timed_models(FakeFaces(scene), times), Sink())
    time_frames(pipeline, times)
    for index in range(25):
        pipeline.step(frame_of(scene, index))
    summary = times.summary()
    assert summary["frame"].count == 25
    assert summary["detect"].count >= pipeline.counts.searched
    assert summary["embed"].count == pipeline.counts.probes == 1
    assert {"locate", "align", "assess", "pose", "liveness", "occlusion"} <= set(summary)
    overhead = times.overhead()
    assert overhead is not None
    assert overhead > 1


def test_a_stage_that_fails_is_measured_too() -> None:
    times = StageTimes()
    try:
        with times.measure("detect"):
            raise ValueError
    except ValueError:
        pass
    assert times.summary()["detect"].count == 1
