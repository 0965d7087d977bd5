"""One template of several shots: nearer to the truth than each of them, and never a worse one."""

import numpy as np
import pytest

from edge_agent.pipeline import Pipeline, PipelineRules
from edge_agent.tracking.bestshot import ShotRules
from edge_agent.tracking.fusion import fuse
from shared.template import Template, unit_rows

from .fake_faces import FakeFaces, Sink, Someone, frame_of, person_of


def template(seed: int, noise: float = 0.0, dimension: int = 512) -> Template:
    truth = unit_rows(np.random.default_rng(1).normal(size=(1, dimension)))[0]
    error = np.random.default_rng(100 + seed).normal(size=dimension) / dimension**0.5
    return Template("test@1", unit_rows((truth + noise * error)[np.newaxis])[0])


def test_the_fused_template_is_nearer_to_the_truth_than_its_shots() -> None:
    shots = [(0.5, template(seed, noise=1.0)) for seed in range(4)]
    truth = template(0).vector
    alone = [float(one.vector @ truth) for _, one in shots]
    fused = fuse(shots)
    assert float(fused.vector @ truth) > max(alone) + 0.1
    assert float(np.linalg.norm(fused.vector)) == pytest.approx(1, abs=1e-5)
    assert fused.model_id == "test@1"


def test_a_better_shot_counts_for_more() -> None:
    good, bad = template(1, 0.2), template(2, 3.0)
    fused = fuse([(0.9, good), (0.1, bad)])
    assert float(fused.vector @ good.vector) > 0.97


def test_one_shot_is_itself_and_none_is_refused() -> None:
    one = template(1)
    assert fuse([(0.0, one)]) is one
    with pytest.raises(ValueError, match="no shot"):
        fuse([])


def watch(fuse_shots: int, score: float = 0.5) -> tuple[Sink, FakeFaces]:
    rules = PipelineRules(shots=ShotRules(fuse=fuse_shots))
    scene = lambda index: [Someone(1 if index < 150 else 2, 300, score=score)]  # noqa: E731
    models, sink = FakeFaces(scene), Sink()
    pipeline = Pipeline(models, sink, rules)
    for index in range(300):
        pipeline.step(frame_of(scene, index))
    pipeline.finish()
    return sink, models


def test_fused_probes_say_of_how_many_shots_and_never_mix_people() -> None:
    sink, models = watch(3)
    by_person = {1: [], 2: []}  # type: dict[int, list[int]]
    for probe in sink.probes:
        assert float(probe.template.vector.max()) == pytest.approx(1.0)
        by_person[person_of(probe)].append(probe.shots)
    assert by_person == {1: [1, 2, 3], 2: [1, 2, 3]}
    assert sum(models.batches) == 6
    assert sink.probes[2].message("box", 1).shots == 3


def test_without_fusion_a_probe_is_one_shot() -> None:
    sink, _ = watch(1)
    assert [probe.shots for probe in sink.probes] == [1, 1]
