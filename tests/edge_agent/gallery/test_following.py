"""Films with known persons and real models: one track for each person, and few templates."""

from datetime import UTC, datetime, timedelta

import pytest

from edge_agent.capture.camera import Frame
from edge_agent.vision.pipeline import Pipeline
from models.face_models import FaceModels, open_models
from tests.benchmarks.edge.people import Portrait, cast
from tests.benchmarks.edge.scenes import FPS, composed, people_of
from tests.benchmarks.edge.truth import Following
from tests.support.fake_faces import Sink

pytestmark = pytest.mark.models

SIZE = (640, 480)
SECONDS = 8


@pytest.fixture(scope="module")
def models() -> FaceModels:
    return open_models("compact")


@pytest.fixture(scope="module")
def portraits(models: FaceModels) -> list[Portrait]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MUSTER_TEST_FACES", raising=False)  # the same people everywhere
        return cast(models)


@pytest.mark.parametrize("scene", ["three walking", "two crossing", "behind a post"])
def test_who_is_covered_or_hidden_on_the_way_keeps_one_track_and_costs_three_templates_at_most(
    scene: str, models: FaceModels, portraits: list[Portrait]
) -> None:
    people = people_of(scene, SIZE, portraits)
    truth, pipeline = Following(people), Pipeline(models, Sink())
    start = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    for index, picture in enumerate(composed(scene, SIZE, portraits, SECONDS)):
        time_s = index / FPS
        pipeline.step(Frame(picture, start + timedelta(seconds=time_s), time_s, index, "hall"))
        truth.see(pipeline.tracks, time_s)
    pipeline.finish()
    assert truth.followed == pipeline.counts.tracks == len(people)
    assert (truth.most_tracks, truth.switches) == (1, 0)
    assert pipeline.counts.embeddings <= 3 * len(people)
