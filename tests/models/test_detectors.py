"""Decoding and suppression, on graphs whose answers are known."""

import os
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.detectors.base import suppress, with_area
from models.detectors.centerface import CenterFace
from models.detectors.scrfd import Scrfd
from models.detectors.ultralight import UltraLight
from models.detectors.yunet import YuNet, detections_of
from models.preprocessing import InputSpec
from models.types import BgrImage, Detections
from shared.errors import PackError
from tests.support.graphs import answering, floats, save

FRAME: BgrImage = np.zeros((720, 1280, 3), np.uint8)
Floats = NDArray[np.float32]


def overlap(a: Floats, b: Floats) -> float:
    """Intersection over union, as one would compute it by hand."""
    width = max(0.0, float(min(a[2], b[2]) - max(a[0], b[0])))
    height = max(0.0, float(min(a[3], b[3]) - max(a[1], b[1])))
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def suppressed_by_hand(boxes: Floats, scores: Floats, most: float) -> list[int]:
    kept: list[int] = []
    for row in sorted(range(len(boxes)), key=lambda row: -scores[row]):
        if all(overlap(boxes[row], boxes[other]) <= most for other in kept):
            kept.append(row)
    return kept


@given(st.integers(0, 10_000), st.integers(0, 40), st.sampled_from([0.2, 0.3, 0.4, 0.7]))
@settings(max_examples=150, deadline=None)
def test_suppression_keeps_what_it_would_keep_by_hand(seed: int, count: int, most: float) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (count, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    scores = rng.permutation(np.linspace(0.5, 1, count)).astype(np.float32)
    points = rng.uniform(0, 100, (count, 5, 2)).astype(np.float32)
    kept = suppress(boxes, scores, most, points)
    rows = suppressed_by_hand(boxes, scores, most)
    np.testing.assert_array_equal(kept.boxes, boxes[rows])
    np.testing.assert_array_equal(kept.scores, scores[rows])
    assert kept.points5 is not None
    np.testing.assert_array_equal(kept.points5, points[rows])


def test_boxes_that_cannot_be_cropped_are_dropped() -> None:
    boxes = np.array(
        [[0, 0, 10, 10], [5, 5, 5.5, 20], [9, 9, 3, 3], [0, 0, np.inf, 5], [0, 0, np.nan, 5]],
        np.float32,
    )
    kept = with_area(Detections(boxes, np.linspace(1, 0.6, 5, dtype=np.float32)))
    np.testing.assert_array_equal(kept.boxes, boxes[:1])


def test_ultralight_scales_the_boxes_to_the_picture(tmp_path: Path) -> None:
    scores = np.zeros((1, 4420, 2), np.float32)
    boxes = np.zeros((1, 4420, 4), np.float32)
    scores[0, 7, 1], boxes[0, 7] = 0.9, (0.25, 0.5, 0.5, 0.75)
    scores[0, 8, 1], boxes[0, 8] = 0.8, (0.26, 0.5, 0.5, 0.75)  # the same face
    scores[0, 9, 1], boxes[0, 9] = 0.95, (-0.1, 0.0, 0.1, 0.2)  # reaches outside
    scores[0, 10, 1], boxes[0, 10] = 0.5, (0.7, 0.7, 0.9, 0.9)  # not likely enough
    session = answering(
        tmp_path / "graph.onnx", (1, 3, 240, 320), {"scores": scores, "boxes": boxes}
    )
    spec = InputSpec(width=320, height=240, colour="rgb", mean=127.0, divisor=128.0)
    detections = UltraLight(session, spec).detect(FRAME)
    np.testing.assert_allclose(detections.scores, [0.95, 0.9])
    np.testing.assert_allclose(
        detections.boxes, [[-128, 0, 128, 144], [320, 360, 640, 540]], rtol=1e-5
    )


@pytest.mark.parametrize("size", [(720, 1280), (240, 320), (480, 640), (1080, 1920), (13, 9)])
def test_ultralight_sees_the_picture_as_opencv_reduces_it(
    tmp_path: Path, rng: np.random.Generator, size: tuple[int, int]
) -> None:
    picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    nothing = {
        "scores": np.zeros((1, 4, 2), np.float32),
        "boxes": np.zeros((1, 4, 4), np.float32),
    }
    session = answering(tmp_path / "graph.onnx", (1, 3, 240, 320), nothing)
    seen: list[Floats] = []
    run = session.run
    session.run = lambda batch: seen.append(batch) or run(batch)  # type: ignore[method-assign]
    UltraLight(session, InputSpec(width=320, height=240, colour="bgr")).detect(picture)
    expected = cv2.resize(picture, (320, 240)).transpose(2, 0, 1)
    np.testing.assert_array_equal(seen[0][0], expected)


def test_centerface_decodes_box_and_points(tmp_path: Path) -> None:
    rows, columns = 136, 240  # 1280 × 720 reduced to 960 × 544, a cell is 4 pixels
    heat = np.zeros((1, 1, rows, columns), np.float32)
    scale, offset = (np.zeros((1, 2, rows, columns), np.float32) for _ in range(2))
    marks = np.zeros((1, 10, rows, columns), np.float32)
    heat[0, 0, 50, 100] = 0.9
    scale[0, :, 50, 100] = np.log([20, 10])  # height and width, in cells
    offset[0, :, 50, 100] = (0.25, -0.25)  # down and right
    marks[0, :, 50, 100] = [0.3, 0.2, 0.3, 0.8, 0.5, 0.5, 0.8, 0.3, 0.8, 0.7]  # y before x
    session = answering(
        tmp_path / "graph.onnx",
        ("n", 3, "h", "w"),
        {"537": heat, "538": scale, "539": offset, "540": marks},
    )
    detections = CenterFace(session, InputSpec(colour="bgr")).detect(FRAME)
    across, down = 1280 / 960, 720 / 544
    x, y = (100 - 0.25 + 0.5) * 4, (50 + 0.25 + 0.5) * 4
    box = [(x - 20) * across, (y - 40) * down, (x + 20) * across, (y + 40) * down]
    np.testing.assert_allclose(detections.boxes, [box], rtol=1e-5)
    assert detections.points5 is not None
    left_eye = [(x - 20 + 0.2 * 40) * across, (y - 40 + 0.3 * 80) * down]
    np.testing.assert_allclose(detections.points5[0, 0], left_eye, rtol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (31, 2000), (4000, 3000)])
def test_centerface_gives_its_graph_sides_that_are_multiples_of_32(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    nothing = np.zeros((1, 1, 8, 8), np.float32)
    outputs = {"heat": nothing, "scale": nothing, "offset": nothing, "marks": nothing}
    session = answering(tmp_path / "graph.onnx", ("n", 3, "h", "w"), outputs)
    detector = CenterFace(session, InputSpec(colour="bgr"))
    width, height = detector.input_size(*size)
    assert width % 32 == height % 32 == 0
    assert 32 <= max(width, height) <= 960


def scrfd_outputs(size: int) -> dict[str, Floats]:
    cells = [2 * (size // stride) ** 2 for stride in (8, 16, 32)]
    return {
        f"{kind}_{stride}": np.zeros((count, width), np.float32)
        for kind, width in (("score", 1), ("box", 4), ("points", 10))
        for stride, count in zip((8, 16, 32), cells, strict=True)
    }


def test_scrfd_decodes_each_stride(tmp_path: Path) -> None:
    outputs = scrfd_outputs(640)
    anchor = 2 * (10 * 40 + 20) + 1  # stride 16: row 10, column 20, the second anchor there
    outputs["score_16"][anchor] = 0.9
    outputs["box_16"][anchor] = (1, 2, 3, 4)  # left, up, right, down, in strides
    outputs["points_16"][anchor] = np.arange(10) / 10
    other = 2 * (5 * 20 + 6)  # stride 32: row 5, column 6
    outputs["score_32"][other] = 0.8
    outputs["box_32"][other] = (1, 1, 1, 1)
    session = answering(tmp_path / "graph.onnx", (1, 3, 640, 640), outputs)
    spec = InputSpec(width=640, height=640, colour="rgb", mean=127.5, divisor=128.0)
    detections = Scrfd(session, spec).detect(FRAME)  # 1280 × 720, so everything counts double
    x, y = 20 * 16, 10 * 16
    np.testing.assert_allclose(detections.scores, [0.9, 0.8])
    np.testing.assert_allclose(
        detections.boxes,
        2 * np.array([[x - 16, y - 32, x + 48, y + 64], [160, 128, 224, 192]]),
    )
    assert detections.points5 is not None
    expected = np.array([x, y]) + 16 * np.arange(10).reshape(5, 2) / 10
    np.testing.assert_allclose(detections.points5[0], 2 * expected, rtol=1e-5)


def test_scrfd_keeps_the_pictures_proportions(tmp_path: Path) -> None:
    session = answering(tmp_path / "graph.onnx", (1, 3, 640, 640), scrfd_outputs(640))
    spec = InputSpec(width=640, height=640, colour="rgb", mean=127.5, divisor=128.0)
    canvas, scale = Scrfd(session, spec).letterbox(np.full((720, 1280, 3), 200, np.uint8))
    assert scale == 0.5
    assert (canvas[:360] == 200).all()
    assert not canvas[360:].any()


def test_yunets_rows_are_scaled_and_sorted() -> None:
    rows = np.zeros((2, 15), np.float32)
    rows[0, :4], rows[0, 14] = (10, 20, 30, 40), 0.7
    rows[1, :4], rows[1, 4:14], rows[1, 14] = (1, 2, 3, 4), np.arange(10), 0.9
    detections = detections_of(rows, 2.0, 3.0)
    np.testing.assert_allclose(detections.scores, [0.9, 0.7])
    np.testing.assert_allclose(detections.boxes, [[2, 6, 8, 18], [20, 60, 80, 180]])
    assert detections.points5 is not None
    np.testing.assert_allclose(detections.points5[0, 1], [4, 9])


def bright_is_a_face(path: Path) -> Path:
    """A graph with YuNet's inputs and outputs that takes every white cell for a face.

    At each stride, the class and objectness are the cell's mean brightness; box and points are
    zero, which OpenCV decodes to a box of one stride around the cell's corner.
    """
    nodes, outputs = [], []
    for stride in (8, 16, 32):
        nodes += [
            helper.make_node(
                "AveragePool", ["input"], [f"pool{stride}"],
                kernel_shape=[stride, stride], strides=[stride, stride],
            ),
            helper.make_node("Conv", [f"pool{stride}", "gray"], [f"gray{stride}"]),
        ]  # fmt: skip
        for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            name = f"{kind}_{stride}"
            weights = "one" if width == 1 else f"zero{width}"
            nodes += [
                helper.make_node("Conv", [f"gray{stride}", weights], [f"{name}_map"]),
                helper.make_node("Transpose", [f"{name}_map"], [f"{name}_last"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}_last", f"rows{width}"], [name]),
            ]
            outputs.append(floats(name, (1, "cells", width)))
    constants = {
        "gray": np.full((1, 3, 1, 1), 1 / (3 * 255), np.float32),
        "one": np.ones((1, 1, 1, 1), np.float32),
        "zero4": np.zeros((4, 1, 1, 1), np.float32),
        "zero10": np.zeros((10, 1, 1, 1), np.float32),
        **{f"rows{width}": np.array([1, -1, width], np.int64) for width in (1, 4, 10)},
    }
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    order = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)]
    outputs.sort(key=lambda output: order.index(output.name))
    graph = helper.make_graph(
        nodes, "yunet", [floats("input", (1, 3, 320, 320))], outputs, initializers
    )
    return save(path, graph)


def test_yunet_runs_in_opencv_and_answers_in_pixels_of_the_source(tmp_path: Path) -> None:
    detector = YuNet(bright_is_a_face(tmp_path / "graph.onnx"), longest_side=320)
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[64:80, 160:176] = 255  # one cell of 8 × 8 after the picture was halved
    detections = detector.detect(picture)
    assert len(detections) == 1
    assert detections.scores[0] == pytest.approx(1, abs=0.01)
    # The cell is row 4, column 10; zero offsets mean its corner, log sizes of zero one stride.
    np.testing.assert_allclose(detections.boxes, [[152, 56, 168, 72]], atol=0.5)
    assert len(detector.detect(np.zeros((480, 640, 3), np.uint8))) == 0


def test_yunet_refuses_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "graph.onnx").write_bytes(b"no graph")
    with pytest.raises(PackError, match="not a graph that can be run"):
        YuNet(tmp_path / "graph.onnx")


def test_synthetic_graphs_are_valid(tmp_path: Path) -> None:
    onnx.checker.check_model(onnx.load(bright_is_a_face(tmp_path / "graph.onnx")))


@pytest.mark.skipif("MUSTER_TEST_WEIGHTS" not in os.environ, reason="needs MUSTER_TEST_WEIGHTS")
def test_opening_yunet_writes_nothing_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    YuNet(Path(os.environ["MUSTER_TEST_WEIGHTS"], "yunet.onnx"))
    assert capfd.readouterr().err == ""
