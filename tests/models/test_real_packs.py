"""Packs by URL with their real weights: fetched over HTTP, installed, used.

Needs the folder that MUSTER_TEST_WEIGHTS names.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.face_models import FaceModels, open_models
from models.packs.install import pull
from models.packs.manifest import built_in_manifest
from models.packs.store import default_cache, installed
from shared.errors import PackError
from tests.models.conftest import sample
from tests.support.fake_web import FarWeb
from tests.support.weights import FILES, manifest_of, weights_folder

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(weights_folder() is None, reason="MUSTER_TEST_WEIGHTS names no folder"),
]
EMBEDDERS = {"edgeface-xxs": 512, "edgeface-xs": 512, "retail-0095": 256}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache into which every pack of the folder was pulled over HTTP."""
    folder = weights_folder()
    assert folder is not None
    cache = tmp_path_factory.mktemp("cache")
    (cache / "compact").symlink_to(default_cache() / "compact")
    with FarWeb() as web:
        web.files = {f"/{path.name}": path.read_bytes() for path in folder.glob("*.onnx")}
        manifest = manifest_of(folder, lambda path: web.url(f"/{path.name}"))
        assert set(manifest.packs) == set(FILES)
        for name in manifest.packs:
            pull(name, manifest, cache=cache, accept_licence=True)
        yield cache


def test_the_yunet_of_the_manifest_is_the_file_at_hand(cache: Path) -> None:
    there = installed("yunet", cache)
    assert there is not None
    assert there.pack.files == built_in_manifest().pack("yunet").files
    assert there.problems() == []


def test_a_disputed_licence_asks_for_consent(tmp_path: Path) -> None:
    folder = weights_folder()
    assert folder is not None
    with pytest.raises(PackError, match=r"disputed.*BSD-3-Clause.*--accept-licence"):
        pull("edgeface-xs", manifest_of(folder), cache=tmp_path)


@pytest.mark.parametrize("detector", ["compact", "yunet"])
@pytest.mark.parametrize("pack", EMBEDDERS)
def test_each_embedder_tells_people_apart(cache: Path, pack: str, detector: str) -> None:
    models = open_models(pack, detector=detector, cache=cache)
    obama, again, biden = (
        template(models, sample(name)) for name in ("obama.jpg", "obama2.jpg", "biden.jpg")
    )
    assert obama.shape == (EMBEDDERS[pack],)
    assert models.dimension == EMBEDDERS[pack]
    assert obama @ again > 0.55
    assert obama @ biden < 0.25


def template(models: FaceModels, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    (face,) = models.analyze(picture)
    assert face.template is not None
    assert face.chip.shape == (112, 112, 3)  # quality is measured alike for all packs
    return face.template.vector


def test_a_chip_of_another_size_shows_the_eyes_where_its_pack_declares_them(cache: Path) -> None:
    models = open_models("retail-0095", detector="compact", cache=cache)
    picture = sample("astronaut.png")
    shapes = models.locate(picture, models.detect(picture))
    marked = np.zeros_like(picture)
    for x, y in shapes.points5[0, :2]:
        cv2.circle(marked, (round(float(x)), round(float(y))), 2, (255, 255, 255), -1)
    chips = models.align(marked, shapes.points5)
    (chip,) = models.embedding_chips(marked, shapes.points5, chips, [])
    assert chip.shape == (128, 128, 3)
    for half, expected in ((chip[:, :64], 40.4), (chip[:, 64:], 87.4 - 64)):
        _, columns = np.nonzero(half[:, :, 0] > 128)
        assert abs(float(columns.mean()) - expected) < 3


def test_yunet_and_compact_find_the_same_faces(cache: Path) -> None:
    near, far = open_models("compact"), open_models("compact", detector="yunet", cache=cache)
    for name in ("obama.jpg", "biden.jpg", "astronaut.png"):
        (actual,), (expected,) = near.detect(sample(name)).boxes, far.detect(sample(name)).boxes
        width = actual[2] - actual[0]
        assert np.abs(actual - expected).max() < 0.3 * width
