"""Liveness over the track: a weak score that refuses probes only where the settings say so."""

import pytest

from edge_agent.config.settings import LivenessSettings
from edge_agent.vision.pipeline import Pipeline, PipelineSettings
from tests.support.fake_faces import FakeFace, FakeFaces, Sink, frame_of


def watch(
    settings: LivenessSettings, live: float, frames: int = 60
) -> tuple[FakeFaces, Sink, Pipeline]:
    scene = lambda _: [FakeFace(1, 300)]  # noqa: E731
    models, sink = FakeFaces(scene, live={1: live}), Sink()
    pipeline = Pipeline(models, sink, PipelineSettings(liveness=settings))
    for index in range(frames):
        pipeline.step(frame_of(scene, index))
    pipeline.finish()
    return models, sink, pipeline


def test_a_track_that_does_not_seem_live_makes_no_probe_and_says_why() -> None:
    models, sink, pipeline = watch(LivenessSettings(policy="refuse", threshold=0.5), live=0.2)
    assert (sink.probes, models.batches) == ([], [])
    assert pipeline.counts.unidentified == {"liveness": 1}


def test_a_track_that_seems_live_makes_a_probe_with_the_score() -> None:
    _, sink, _ = watch(LivenessSettings(policy="refuse", threshold=0.5), live=0.7)
    (probe,) = sink.probes
    assert probe.liveness == pytest.approx(0.7)
    factor = probe.quality.factors[-1]
    assert (factor.name, factor.low, factor.passed) == ("liveness", 0.5, True)


def test_a_refusal_needs_several_scores() -> None:
    scene = lambda _: [FakeFace(1, 300)]  # noqa: E731

    class Moody(FakeFaces):
        def liveness(self, image, boxes):  # type: ignore[no-untyped-def]
            score = super().liveness(image, boxes)
            return score * 0 if self.liveness_looks == 1 else score  # one wrong score

    models, sink = Moody(scene), Sink()
    pipeline = Pipeline(
        models, sink, PipelineSettings(liveness=LivenessSettings(policy="refuse", threshold=0.5))
    )
    for index in range(12):
        pipeline.step(frame_of(scene, index))
    assert len(sink.probes) == 1
    assert models.liveness_looks >= 3


def test_even_a_very_good_shot_needs_several_liveness_scores() -> None:
    """A photograph seems live in one frame in three: the median of several looks refuses it."""
    scene = lambda _: [FakeFace(1, 300, score=0.95)]  # noqa: E731

    class Lucky(FakeFaces):
        def liveness(self, image, boxes):  # type: ignore[no-untyped-def]
            score = super().liveness(image, boxes)
            return score if self.liveness_looks % 3 == 1 else score * 0

    models, sink = Lucky(scene), Sink()
    pipeline = Pipeline(
        models, sink, PipelineSettings(liveness=LivenessSettings(policy="refuse", threshold=0.5))
    )
    for index in range(50):
        pipeline.step(frame_of(scene, index))
    pipeline.finish()
    assert sink.probes == []


def test_the_policy_report_refuses_nothing() -> None:
    models, sink, _ = watch(LivenessSettings(policy="report", threshold=0.5), live=0.1)
    assert [probe.liveness for probe in sink.probes] == [pytest.approx(0.1)]
    assert models.liveness_looks == 1, "a look for each shot that is judged, no more"


def test_the_policy_off_does_not_run_the_model() -> None:
    models, sink, _ = watch(LivenessSettings(policy="off"), live=0.1)
    assert [probe.liveness for probe in sink.probes] == [None]
    assert models.liveness_looks == 0
