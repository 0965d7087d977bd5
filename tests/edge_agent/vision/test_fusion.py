"""Fusion: the template of several shots is nearer to the truth than each of them."""

import numpy as np
import pytest

from edge_agent.config.settings import ShotSettings
from edge_agent.vision.fusion import FusedShots, fuse
from edge_agent.vision.pipeline import Pipeline, PipelineSettings
from shared.fusion import SAME_PERSON
from shared.wire.template import Template, unit_rows
from tests.support.fake_faces import FakeFace, FakeFaces, Scene, Sink, frame_of, person_of


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


def test_one_shot_is_its_own_template_and_no_shot_is_an_error() -> None:
    one = template(1)
    assert fuse([(0.0, one)]) is one
    with pytest.raises(ValueError, match="no shot"):
        fuse([])


def watch(
    scene: Scene, frames: int = 150, *, settings: ShotSettings | None = None, finish: bool = True
) -> tuple[Sink, FakeFaces]:
    models, sink = FakeFaces(scene), Sink()
    pipeline = Pipeline(models, sink, PipelineSettings(shots=settings or ShotSettings()))
    for index in range(frames):
        pipeline.step(frame_of(scene, index))
    if finish:
        pipeline.finish()
    return sink, models


def turning(index: int, person: int = 1, score: float = 0.5) -> list[FakeFace]:
    """A person who turns their head every half second."""
    return [FakeFace(person, 300, score=score, features=True, look=index // 12)]


def test_fused_probes_count_their_shots_and_never_mix_people() -> None:
    sink, models = watch(lambda index: turning(index, 1 if index < 150 else 2), 300)
    by_person = {1: [], 2: []}  # type: dict[int, list[int]]
    for probe in sink.probes:
        assert float(probe.template.vector.max()) == pytest.approx(1.0)
        by_person[person_of(probe)].append(probe.shots)
    assert by_person == {1: [1, 2, 3], 2: [1, 2, 3]}
    assert sum(models.batches) <= 8, "three for each, and a check where the face changed"
    assert sink.probes[2].message("box", 1).shots == 3


def test_the_first_probe_does_not_wait_for_later_shots() -> None:
    sink, _ = watch(lambda index: turning(index, score=0.8), 3, finish=False)
    assert [probe.shots for probe in sink.probes] == [1]


def test_a_face_that_looks_as_before_is_not_embedded_for_fusion() -> None:
    sink, models = watch(lambda _: [FakeFace(1, 300, features=True)])
    assert [probe.shots for probe in sink.probes] == [1]
    assert sum(models.batches) == 1


def test_a_clearly_better_shot_that_comes_late_still_becomes_part_of_the_fused_probe() -> None:
    sink, _ = watch(lambda index: turning(index, score=0.4 if index < 100 else 0.7), 150)
    assert [probe.shots for probe in sink.probes] == [1, 2, 3, 3]
    assert [round(probe.quality.score, 1) for probe in sink.probes] == [0.4, 0.4, 0.4, 0.7]


def test_without_fusion_a_probe_is_one_shot() -> None:
    sink, _ = watch(turning, settings=ShotSettings(fuse=1))
    assert [probe.shots for probe in sink.probes] == [1]


def alike(similarity: float, seed: int = 0) -> Template:
    """A template with this cosine to `alike(1.0)`."""
    vector = np.zeros(512, np.float32)
    vector[0], vector[1 + seed] = similarity, (1 - similarity**2) ** 0.5
    return Template("test@1", vector)


def test_a_shot_that_is_not_surely_of_the_same_person_replaces_the_fused_ones() -> None:
    shots = FusedShots()
    shots.add(0.5, alike(1.0), 3, SAME_PERSON)
    shots.add(0.4, alike(0.8), 3, SAME_PERSON)
    assert len(shots) == 2
    assert not shots.agrees(alike(0.3, seed=5), SAME_PERSON)
    shots.add(0.9, alike(0.3, seed=5), 3, SAME_PERSON)
    assert len(shots) == 1
    assert float(shots.template.vector[0]) == pytest.approx(0.3)
