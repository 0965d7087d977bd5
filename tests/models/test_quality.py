"""Quality factors, gates and the score, on faces that are made worse in a known way."""

import math
from dataclasses import FrozenInstanceError
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.alignment import REFERENCE, SIDE, align
from models.quality.factors import FACTORS
from models.quality.gates import DOORWAY, OFF, PASSPORT, Gate
from models.quality.pose import FACE, poses_from_points
from models.quality.score import assess
from models.types import BgrImage, Detections, Shapes
from shared.wire.quality import Pose, Quality

LEVEL = Pose(yaw=0, pitch=0, roll=0)


def texture(side: int = 400) -> BgrImage:
    """Detail of every size, as a face has it."""
    rng = np.random.default_rng(3)
    layers = [
        cv2.resize(rng.normal(0, 30, (size, size, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
        for size in (6, 25, 100, 200)
    ]
    return np.clip(sum(layers) + 128, 0, 255).astype(np.uint8)


def judged(
    image: BgrImage,
    *,
    scale: float = 2.0,
    at: tuple[float, float] = (88, 60),
    pose: Pose = LEVEL,
    gate: Gate = OFF,
    eyes_open: float | None = None,
) -> Quality:
    """The quality of a face whose points are the reference's, `scale` times as large, at `at`."""
    points = (REFERENCE * scale + at)[np.newaxis].astype(np.float32)
    box = np.array([[*at, at[0] + SIDE * scale, at[1] + SIDE * scale]], np.float32)
    (quality,) = assess(
        image,
        Detections(box, np.array([0.9], np.float32)),
        Shapes(points, None),
        [pose],
        align(image, points),
        gate,
        eyes_open=None if eyes_open is None else np.array([eyes_open], np.float32),
    )
    return quality


def value(quality: Quality, name: str) -> float:
    return next(factor.value for factor in quality.factors if factor.name == name)


def test_a_good_face_is_measured_as_one() -> None:
    quality = judged(texture())
    assert value(quality, "interocular") == pytest.approx(70.5, abs=0.1)
    assert value(quality, "missing") == 1
    assert value(quality, "align_score") == pytest.approx(1)
    assert value(quality, "size") == pytest.approx((224 / 400) ** 2, rel=0.01)
    assert value(quality, "detection") == pytest.approx(0.9)
    assert abs(value(quality, "brightness")) < 0.2
    assert value(quality, "sharpness") > 0.8
    assert quality.score > 0.8
    assert quality.passed


def test_sharpness_and_score_fall_with_blur() -> None:
    seen = [judged(cv2.GaussianBlur(texture(), (0, 0), sigma)) for sigma in (0.1, 2, 4, 8, 16)]
    for name in ("sharpness",):
        values = [value(quality, name) for quality in seen]
        assert values == sorted(values, reverse=True)
        assert values[-1] < 0.2
    scores = [quality.score for quality in seen]
    assert scores == sorted(scores, reverse=True)


def test_sharpness_does_not_depend_on_the_light() -> None:
    image = texture()
    dimmed = (image * 0.5).astype(np.uint8)
    assert value(judged(dimmed), "sharpness") == pytest.approx(
        value(judged(image), "sharpness"), abs=0.03
    )
    assert value(judged(dimmed), "brightness") < value(judged(image), "brightness") - 0.3


def test_an_even_face_has_no_sharpness() -> None:
    assert value(judged(np.full((400, 400, 3), 90, np.uint8)), "sharpness") == pytest.approx(0)


@pytest.mark.parametrize(("level", "expected"), [(0, -1), (255, 1), (127.5, 0)])
def test_brightness_goes_from_dark_to_bright(level: float, expected: float) -> None:
    quality = judged(np.full((400, 400, 3), level, np.uint8))
    assert value(quality, "brightness") == pytest.approx(expected, abs=0.01)


def test_the_score_grows_with_size() -> None:
    image = texture()
    scores = [judged(image, scale=scale).score for scale in (0.5, 1.0, 2.0)]
    assert scores == sorted(scores)


@pytest.mark.parametrize("angle", ["yaw", "pitch"])
def test_the_score_falls_as_the_head_turns(angle: str) -> None:
    poses = [LEVEL.model_copy(update={angle: degrees}) for degrees in (0, 20, 45, 80)]
    scores = [judged(texture(), pose=pose).score for pose in poses]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < scores[0] / 2


def test_a_face_cut_by_the_edge_is_partly_missing() -> None:
    image = texture()
    whole, half = judged(image), judged(image, at=(-112, 60))
    assert value(whole, "missing") == 1
    assert value(half, "missing") == pytest.approx(0.5, abs=0.05)
    assert half.score < whole.score


def test_the_middle_of_the_picture_is_the_nearest_place_to_its_centre() -> None:
    assert value(judged(texture()), "distance2center") == pytest.approx(1, abs=0.1)
    assert value(judged(texture(), scale=0.5, at=(0, 0)), "distance2center") < 0.2


def test_a_gate_names_what_does_not_pass() -> None:
    quality = judged(texture(), pose=Pose(yaw=50, pitch=0, roll=0), scale=0.3, gate=DOORWAY)
    assert quality.reasons == ["yaw", "interocular"]
    assert not quality.passed
    assert judged(texture(), pose=Pose(yaw=50, pitch=0, roll=0), gate=OFF).passed


def test_the_ends_of_a_range_pass() -> None:
    gate = Gate("narrow", {"yaw": (-10.0, 10.0)})
    for yaw, passed in ((10.0, True), (-10.0, True), (10.1, False)):
        assert judged(texture(), pose=Pose(yaw=yaw, pitch=0, roll=0), gate=gate).passed is passed


def test_a_factor_carries_the_range_of_its_gate() -> None:
    factors = {factor.name: factor for factor in judged(texture(), gate=PASSPORT).factors}
    assert (factors["yaw"].low, factors["yaw"].high) == (-10, 10)
    assert (factors["detection"].low, factors["detection"].high) == FACTORS["detection"]


def test_what_was_not_measured_is_left_out() -> None:
    for eyes in (None, math.nan):
        names = [factor.name for factor in judged(texture(), eyes_open=eyes).factors]
        assert "eyes_open" not in names
        assert "mouth_open" not in names
    assert judged(texture(), eyes_open=0.1, gate=PASSPORT).reasons == ["eyes_open"]


def test_a_passport_asks_for_no_less_than_a_doorway() -> None:
    for factor, (low, high) in DOORWAY.ranges.items():
        strict = PASSPORT.ranges[factor]
        assert low <= strict[0] <= strict[1] <= high


def test_a_gate_is_frozen_and_refuses_what_does_not_exist() -> None:
    with pytest.raises(FrozenInstanceError):
        OFF.name = "on"  # type: ignore[misc]
    with pytest.raises(TypeError):
        DOORWAY.ranges["yaw"] = (0, 0)  # type: ignore[index]
    with pytest.raises(ValueError, match="no factor 'beauty'"):
        Gate("vain", {"beauty": (0.5, 1.0)})
    with pytest.raises(ValueError, match="no range"):
        Gate("impossible", {"yaw": (10.0, -10.0)})
    assert hash(DOORWAY) != hash(PASSPORT)


def seen(yaw: float, pitch: float, roll: float) -> NDArray[np.float32]:
    """The five points of the face that `poses_from_points` assumes, turned and seen from afar."""
    y, p, r = np.radians([yaw, pitch, roll])
    turn_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    turn_p = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    turn_r = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    turned = (FACE - FACE.mean(axis=0)) @ (turn_r @ turn_p @ turn_y).T
    return (turned[:, :2] * 3 + 500).astype(np.float32)


@pytest.mark.parametrize("angle", [-30, -10, 0, 10, 30])
def test_a_pose_is_read_from_five_points(angle: float) -> None:
    level = poses_from_points(seen(0, 0, 0)[np.newaxis])[0]
    yaw, roll = poses_from_points(np.stack([seen(angle, 0, 0), seen(0, 0, angle)]))
    assert yaw.yaw - level.yaw == pytest.approx(angle, abs=0.5)
    assert roll.roll - level.roll == pytest.approx(angle, abs=0.5)
    (up,) = poses_from_points(seen(0, angle, 0)[np.newaxis])
    assert up.pitch - level.pitch == pytest.approx(angle, abs=0.5)


def test_no_faces_have_no_poses_and_no_quality() -> None:
    assert poses_from_points(np.empty((0, 5, 2), np.float32)) == []
    nothing = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32))
    shapes = Shapes(np.empty((0, 5, 2), np.float32), None)
    assert assess(texture(), nothing, shapes, [], np.empty((0, SIDE, SIDE, 3), np.uint8)) == []


def test_every_factor_is_documented_with_the_ranges_of_the_gates() -> None:
    table = (Path(__file__).parents[2] / "docs" / "quality.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("| `")
    ]
    assert [row[0].strip("`") for row in rows] == list(FACTORS)
    for name, _, _, *ranges in rows:
        for gate, written in zip((PASSPORT, DOORWAY), ranges, strict=True):
            low, high = gate.ranges.get(name.strip("`"), (None, None))
            assert written == ("free" if low is None else f"**{low:.6g} to {high:.6g}**"), name
