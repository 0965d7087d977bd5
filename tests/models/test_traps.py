"""The four traps of these models, each of which once cost somebody a day."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from models.detectors.base import Detector
from models.face_models import FaceModels
from models.onnx_session import Session
from models.packs.protobuf import Message
from models.packs.store import InstalledPack, default_cache, require
from models.packs.surgery import flush_denormals
from models.preprocessing import Layout
from models.types import BgrImage, Detections
from tests.models.conftest import read, sample
from tests.support import graphs

pytestmark = pytest.mark.models

_OFF = "ORT_DISABLE_TELEMETRY"
TINIEST = float(np.finfo(np.float32).tiny)  # below, float32 numbers are denormal
PORTRAITS = ("obama.jpg", "obama2.jpg", "obama3.jpg", "biden.jpg", "astronaut.png")


@pytest.fixture(scope="module")
def compact() -> InstalledPack:
    return require("compact")


def _chip(faces: FaceModels, name: str) -> NDArray[np.uint8]:
    image = sample(name)
    detections = faces.detect(image)
    return faces.align(image, faces.locate(image, detections).points5[:1])


def denormals(path: Path) -> int:
    weights = (numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer)
    return sum(int(((np.abs(w) < TINIEST) & (w != 0)).sum()) for w in weights if w.dtype == "f4")


def test_denormals_the_installed_graphs_have_no_denormal_weights(compact: InstalledPack) -> None:
    assert {file.name: denormals(compact.path(file)) for file in compact.pack.files} == {
        file.name: 0 for file in compact.pack.files
    }


def test_prelu_templates_are_those_of_the_graph_as_it_is_published(
    compact: InstalledPack, faces: FaceModels
) -> None:
    chips = np.concatenate([_chip(faces, name) for name in PORTRAITS])
    file = compact.file_for("embedder")
    assert b"PRelu" in compact.path(file).read_bytes()
    published = ort.InferenceSession(compact.path(file), providers=["CPUExecutionProvider"])
    assert file.input is not None
    (features,) = published.run(None, {"input": Layout(file.input).batch(chips)})
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    templates = np.stack([template.vector for template in faces.embed(chips)])
    np.testing.assert_allclose(templates, expected, atol=1e-6)


def test_denormals_flushing_them_changes_no_answer(
    compact: InstalledPack, tmp_path: Path, faces: FaceModels
) -> None:
    """With next to nothing in place of the weights that are zero, as it was published, the
    installed embedder answers the same bits."""
    path = compact.path(compact.file_for("embedder"))
    model = onnx.load(path)
    restored = 0
    rng = np.random.default_rng(5)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        zeros = values == 0
        if values.dtype == np.float32 and zeros.any():
            tiny = 10.0 ** rng.uniform(-45, -20, int(zeros.sum()))
            values[zeros] = (rng.choice([-1, 1], tiny.size) * tiny).astype(np.float32)
            restored += tiny.size
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert restored >= 176_911  # so many of the published weights are below 1e-20
    assert denormals(path) == 0
    onnx.save(model, tmp_path / "restored.onnx")

    spec = compact.file_for("embedder").input
    assert spec is not None
    chips = [faces.analyze(sample(name), embed=False)[0].chip for name in PORTRAITS]
    batch = Layout(spec).batch(chips)
    (as_published,) = Session(tmp_path / "restored.onnx").run(batch)
    (as_installed,) = Session(path).run(batch)
    np.testing.assert_array_equal(as_installed, as_published)


def test_denormals_only_what_is_nothing_is_flushed(tmp_path: Path) -> None:
    weights = np.array([[1e-45, -1e-39, 1e-21], [1e-19, -0.5, 0.0]], np.float32)
    graph = Message(graphs.fixed_reshape(tmp_path / "graph.onnx", weights).read_bytes())
    assert flush_denormals(graph.messages(7)[0]) == 3
    model = onnx.load_from_string(graph.encode())
    (left,) = (
        numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name == "weights"
    )
    np.testing.assert_array_equal(left, np.array([[0, 0, 0], [1e-19, -0.5, 0]], np.float32))


def tight(picture: BgrImage, detections: Detections) -> BgrImage:
    x1, y1, x2, y2 = detections.boxes[0].astype(int)
    return np.ascontiguousarray(picture[max(0, y1) : y2, max(0, x1) : x2])


@pytest.mark.parametrize("name", PORTRAITS)
def test_tight_crops_of_a_face_give_the_same_template(faces: FaceModels, name: str) -> None:
    picture = sample(name)
    (whole,) = faces.analyze(picture)
    (cropped,) = faces.analyze(tight(picture, faces.detect(picture)))
    assert whole.template is not None
    assert cropped.template is not None
    assert whole.template.vector @ cropped.template.vector > 0.85


class CountingDetector:
    """A detector that counts the pictures that it has searched."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.pictures = 0

    def detect(self, image: BgrImage) -> Detections:
        self.pictures += 1
        return self._detector.detect(image)


def test_tight_crops_are_searched_twice_and_a_large_face_that_is_surely_whole_once(
    faces: FaceModels,
) -> None:
    picture = sample("obama2.jpg")
    detections = faces.detect(picture)
    assert detections.boxes[0, 2] - detections.boxes[0, 0] > 0.4 * picture.shape[1]
    detector = CountingDetector(faces._parts.detector)
    models = FaceModels(dataclasses.replace(faces._parts, detector=detector))
    assert len(models.find(picture)) == 1
    assert detector.pictures == 1
    assert len(models.find(tight(picture, detections))) == 1
    assert detector.pictures == 3


def test_tight_crops_cost_a_second_search_only_where_it_is_asked_for(faces: FaceModels) -> None:
    picture = sample("astronaut.png")
    x1, y1, x2, y2 = faces.detect(picture).boxes[0]
    inset_x, inset_y = (x2 - x1) * 0.1, (y2 - y1) * 0.1
    crop = picture[int(y1 + inset_y) : int(y2 - inset_y), int(x1 + inset_x) : int(x2 - inset_x)]
    assert len(faces.detect(crop)) == 0
    detections = faces.detect(crop, retry_padded=True)
    assert len(detections) == 1
    centre = (detections.boxes[0, :2] + detections.boxes[0, 2:]) / 2
    np.testing.assert_allclose(centre, np.array(crop.shape[1::-1]) / 2, rtol=0.2)


def crowd(faces: FaceModels, side: int, count: int) -> BgrImage:
    """`count` heads, `side` pixels high each, in a frame of 1280 × 720."""
    heads = []
    for name in PORTRAITS:
        picture = sample(name)
        x1, y1, x2, y2 = faces.detect(picture).boxes[0]
        half = (y2 - y1) * 0.75
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        part = picture[max(0, int(y - half)) : int(y + half), max(0, int(x - half)) : int(x + half)]
        heads.append(cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA))
    frame = np.full((720, 1280, 3), 110, np.uint8)
    step = int(side * 1.3)
    places = [(x, y) for y in range(10, 720 - side, step) for x in range(10, 1280 - side, step)]
    for number, (x, y) in enumerate(places[:count]):
        frame[y : y + side, x : x + side] = heads[number % len(heads)]
    return frame


def test_many_faces_are_found_by_the_detector_for_far_faces(
    faces: FaceModels, far_seeing: FaceModels
) -> None:
    far = crowd(faces, side=50, count=40)
    assert len(far_seeing.detect(far)) == 40
    assert len(faces.detect(far)) < 40
    near = crowd(faces, side=120, count=24)
    assert len(far_seeing.detect(near)) == len(faces.detect(near)) == 24


def test_many_faces_of_a_group_are_found_by_both_detectors(
    people: Path, faces: FaceModels, far_seeing: FaceModels
) -> None:
    counts = {
        path.stem: (len(faces.detect(picture)), len(far_seeing.detect(picture)))
        for path in sorted((people / "groups").iterdir())
        if (picture := read(path)) is not None
    }
    assert counts
    assert all(near == far >= 3 for near, far in counts.values()), counts


_PROVIDERS = """
import json, onnxruntime
onnxruntime.get_available_providers = lambda: [
    "AzureExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
from models.preprocessing import Layout
from models.packs.protobuf import Message
from models.packs.store import require
from models.onnx_session import Session
pack = require("compact")
print(json.dumps(sorted({name for file in pack.pack.files
                         for name in Session(pack.path(file)).providers})))
"""


def test_provider_order_of_the_machine_does_not_matter() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROVIDERS],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert json.loads(done.stdout) == ["CPUExecutionProvider"]
    assert done.stderr == ""  # nor any of the hundreds of warnings about initializers


_QUIET = """
import os, sys
from models.onnx_session import Session
from models.packs.store import require
pack = require("compact")
for file in pack.pack.files:
    Session(pack.path(file))
sys.stdout.write(os.environ["HOME"])
"""


def test_the_library_makes_no_device_id_and_sends_nothing(tmp_path: Path) -> None:
    """Its official builds do by default: they write below the home folder first."""
    environment = {name: os.environ[name] for name in os.environ if name != _OFF}
    environment |= {"MUSTER_MODELS_DIR": str(default_cache()), "HOME": str(tmp_path)}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", _QUIET],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env=environment,
    )
    assert done.stdout == str(tmp_path)
    assert list(tmp_path.rglob("*")) == []


def test_an_installed_file_is_what_its_receipt_says(compact: InstalledPack) -> None:
    assert compact.problems() == []
    for name, expected in compact.installed_sha256.items():
        assert hashlib.sha256((compact.folder / name).read_bytes()).hexdigest() == expected
