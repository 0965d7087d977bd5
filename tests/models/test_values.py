"""Laying out pixels, cutting crops, sessions, the embedder: each against a plain computation."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from models.embedder import Embedder
from models.onnx_session import Session
from models.preprocessing import InputSpec, Layout
from models.types import Detections
from models.warping import clip, enlarge, stretch
from shared.errors import MalformedInput, PackError
from tests.support import graphs


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
@pytest.mark.parametrize(
    ("mean", "divisor"),
    [(0.0, 1.0), (127.0, 128.0), ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))],
)
def test_pixels_are_laid_out_as_the_manifest_says(
    rng: np.random.Generator,
    colour: str,
    mean: float | tuple[float, float, float],
    divisor: float | tuple[float, float, float],
) -> None:
    spec = InputSpec.model_validate({"colour": colour, "mean": mean, "divisor": divisor})
    pictures = rng.integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    ordered = pictures[..., ::-1] if colour == "rgb" else pictures
    expected = ((ordered - np.asarray(mean)) / np.asarray(divisor)).transpose(0, 3, 1, 2)
    batch = Layout(spec).batch(pictures)
    assert batch.dtype == np.float32
    np.testing.assert_allclose(batch, expected, rtol=1e-5, atol=1e-5)


def test_gray_is_weighted_as_the_eye_does(rng: np.random.Generator) -> None:
    pictures = rng.integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    batch = Layout(InputSpec(colour="gray", divisor=256.0)).batch(pictures)
    expected = pictures @ np.array([0.114, 0.587, 0.299]) / 256
    assert batch.shape == (2, 1, 5, 7)
    np.testing.assert_allclose(batch[:, 0], expected, atol=1 / 256)


def test_a_crop_inside_the_picture_equals_a_resize(rng: np.random.Generator) -> None:
    picture = cv2.GaussianBlur(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), (0, 0), 3)
    crop = stretch(picture, np.array([20, 10, 100, 74], np.float32), (64, 64))
    expected = cv2.resize(picture[10:74, 20:100], (64, 64))
    inner = (slice(1, -1), slice(1, -1))  # at the rim, a resize cannot look outside
    np.testing.assert_allclose(crop[inner].astype(int), expected[inner].astype(int), atol=2)


def test_a_crop_outside_the_picture_continues_its_edge() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:, :20] = 200
    crop = stretch(picture, np.array([-40, 0, 40, 40], np.float32), (80, 40))
    assert (crop[:, :58] == 200).all()  # 40 columns that do not exist, then 20 that do
    assert not crop[:, 62:].any()


def test_a_crop_that_shrinks_strongly_averages_instead_of_picking() -> None:
    picture = np.zeros((900, 1300, 3), np.uint8)
    picture[::2, ::2] = picture[1::2, 1::2] = 200  # a chequered pattern: 100 on average
    for box in ([100, 50, 1100, 850], [-300, 10, 1000, 890]):
        crop = stretch(picture, np.array(box, np.float32), (64, 64))
        np.testing.assert_allclose(crop.astype(int), 100, atol=12)


def test_averaging_moves_nothing() -> None:
    picture = np.zeros((1200, 1600, 3), np.uint8)
    picture[:, 803:], picture[517:] = 255, 255  # edges at fractions 0.5 and 0.25 of the box
    box = np.array([303, 267, 1303, 1267], np.float32)
    crop = stretch(picture, box, (100, 100))[:, :, 0].astype(float) / 255
    assert 100 - crop[5].sum() == pytest.approx(50, abs=0.2)
    assert 100 - crop[:, 5].sum() == pytest.approx(25, abs=0.2)


def test_boxes_grow_about_their_centres_and_are_cut_at_the_edge() -> None:
    boxes = np.array([[10, 20, 30, 60]], np.float32)
    np.testing.assert_allclose(enlarge(boxes, 1.5), [[5, 10, 35, 70]])
    picture = np.zeros((50, 32, 3), np.uint8)
    np.testing.assert_allclose(clip(enlarge(boxes, 1.5), picture), [[5, 10, 32, 50]])


def test_detections_move_and_are_taken_in_order() -> None:
    boxes = np.array([[0, 0, 1, 1], [2, 2, 3, 3]], np.float32)
    points = np.zeros((2, 5, 2), np.float32)
    both = Detections(boxes, np.array([0.9, 0.8], np.float32), points)
    moved = both.take(np.array([1])).moved(10, 20)
    np.testing.assert_allclose(moved.boxes, [[12, 22, 13, 23]])
    assert moved.points5 is not None
    np.testing.assert_allclose(moved.points5[0, 0], [10, 20])


def test_only_the_cpu_provider_is_used(tmp_path: Path) -> None:
    session = Session(graphs.channel_means(tmp_path / "graph.onnx"))
    assert session.providers == ["CPUExecutionProvider"]


def test_a_graph_with_a_fixed_batch_is_run_one_by_one(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    batch = rng.random((4, 3, 8, 8), dtype=np.float32)
    answers = [
        Session(graphs.channel_means(tmp_path / f"{size}.onnx", size)).run_each(batch)[0]
        for size in ("batch", 1)
    ]
    np.testing.assert_allclose(answers[0], batch.mean(axis=(2, 3)), rtol=1e-5)
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-6)


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(PackError, match=r"broken\.onnx is not a graph"):
        Session(tmp_path / "broken.onnx")


def means_embedder(path: Path, colour: str = "rgb") -> Embedder:
    spec = InputSpec.model_validate({"colour": colour, "mean": 127.5, "divisor": 127.5})
    return Embedder(Session(graphs.channel_means(path, repeat=4)), spec, "means-12@1", 12)


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_an_embedder_of_the_users_own_gets_its_colours_and_scale(
    tmp_path: Path, colour: str
) -> None:
    chips = np.empty((2, 112, 112, 3), np.uint8)
    chips[0], chips[1] = (255, 0, 0), (0, 0, 255)  # blue, red
    blue, red = means_embedder(tmp_path / "graph.onnx", colour).embed(chips)
    first = 1 if colour == "bgr" else -1
    pattern = np.array([first, -1, -first], np.float32)
    np.testing.assert_allclose(blue.vector, np.tile(pattern, 4) / np.sqrt(12), atol=1e-6)
    assert red.vector[0] == -blue.vector[0]
    assert red.model_id == "means-12@1"


def test_features_without_a_direction_are_refused(tmp_path: Path) -> None:
    embedder = means_embedder(tmp_path / "graph.onnx")
    embedder_of_zero = Embedder(
        Session(graphs.channel_means(tmp_path / "zero.onnx")), graphs.RGB, "means-3@1", 3
    )
    assert embedder.embed(np.empty((0, 112, 112, 3), np.uint8)) == []
    with pytest.raises(MalformedInput, match="no direction"):
        embedder_of_zero.embed(np.zeros((1, 112, 112, 3), np.uint8))
