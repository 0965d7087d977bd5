"""A pack of the user's own: an ONNX file beside a manifest, installed and used."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from models.face_models import FaceModels, open_models
from models.packs.install import pull
from models.packs.manifest import built_in_manifest, read_manifest
from models.packs.store import default_cache
from shared.errors import PackError
from tests.models.conftest import sample
from tests.models.test_manifest import written
from tests.support import graphs

pytestmark = pytest.mark.models


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with the installed default pack in it, and room for more."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "compact").symlink_to(default_cache() / "compact")
    return folder


def install(tmp_path: Path, cache: Path, was: str = "", becomes: str = "") -> None:
    """Install the pack `mine`, with one thing changed in its manifest."""
    graph = graphs.channel_means(tmp_path / "own.onnx", repeat=4)
    sha256 = hashlib.sha256(graph.read_bytes()).hexdigest()
    path = written(tmp_path, sha256=sha256, model_id="mine-12@1")
    text = path.read_text().replace("dimension = 128", "dimension = 12")
    assert was in text
    path.write_text(text.replace(was, becomes) if was else text)
    pull("mine", built_in_manifest().joined(read_manifest(path)), cache=cache)


def test_an_embedder_of_the_users_own_works_with_the_default_detector(
    tmp_path: Path, cache: Path, faces: FaceModels
) -> None:
    install(tmp_path, cache)
    mine = open_models("mine", detector="compact", cache=cache)
    (face,) = mine.analyze(sample("astronaut.png"))
    assert face.template is not None
    assert face.template.model_id == mine.model_id == "mine-12@1"
    assert face.template.dimension == mine.dimension == 12
    # What the manifest declares is what the graph got: BGR, (x - 127.5) / 127.5.
    means = (face.chip.astype(np.float64).mean(axis=(0, 1)) - 127.5) / 127.5
    expected = np.tile(means / np.linalg.norm(means), 4) / 2
    np.testing.assert_allclose(face.template.vector, expected, atol=1e-4)
    (usual,) = faces.analyze(sample("astronaut.png"))
    np.testing.assert_array_equal(face.chip, usual.chip)
    assert face.pose == usual.pose


def test_a_pack_without_a_detector_asks_for_one(tmp_path: Path, cache: Path) -> None:
    install(tmp_path, cache)
    with pytest.raises(PackError, match="'mine' has no detector"):
        open_models("mine", cache=cache)


def test_a_manifest_that_does_not_fit_its_graph_is_found_when_it_is_opened(
    tmp_path: Path, cache: Path
) -> None:
    install(tmp_path, cache, "dimension = 12", "dimension = 13")
    with pytest.raises(PackError, match="not 13 values"):
        open_models("mine", detector="compact", cache=cache)


def test_a_colour_that_does_not_fit_the_graph_is_found_when_it_is_opened(
    tmp_path: Path, cache: Path
) -> None:
    install(tmp_path, cache, 'colour = "bgr"', 'colour = "gray"')
    with pytest.raises(PackError, match="its manifest says"):
        open_models("mine", detector="compact", cache=cache)


def test_a_detector_that_is_not_installed_is_named(cache: Path) -> None:
    with pytest.raises(PackError, match="face-models pull centerface"):
        open_models(detector="centerface", cache=cache)
