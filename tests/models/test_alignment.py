"""The similarity transform against a slow least-squares solution, and what alignment shows."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.alignment import REFERENCE, SIDE, align, residuals, similarity_transforms
from shared.errors import MalformedInput

Floats = NDArray[np.float64]

coordinates = st.floats(-2000, 2000, allow_nan=False, width=32)
point_sets = st.lists(
    st.lists(st.tuples(coordinates, coordinates), min_size=5, max_size=5), min_size=1, max_size=4
).map(np.array)
turns = st.tuples(
    st.floats(-np.pi, np.pi), st.floats(0.01, 100), st.floats(-500, 500), st.floats(-500, 500)
)


def spread_out(points: Floats) -> bool:
    return bool(np.ptp(points, axis=1).max(axis=1).min() > 1)


def least_squares(points: Floats, reference: Floats) -> Floats:
    """The same transform by solving for a, b, x, y point by point: slow and obviously right."""
    rows, values = [], []
    for (x, y), (u, v) in zip(points, reference, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, right, down = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, right], [b, a, down]])


@given(point_sets.filter(spread_out))
@settings(max_examples=150, deadline=None)
def test_the_batch_equals_least_squares_one_by_one(points: Floats) -> None:
    expected = np.stack([least_squares(one, REFERENCE.astype(float)) for one in points])
    moved = np.einsum("nij,nkj->nki", similarity_transforms(points)[:, :, :2], points)
    moved += similarity_transforms(points)[:, None, :, 2]
    oracle = np.einsum("nij,nkj->nki", expected[:, :, :2], points) + expected[:, None, :, 2]
    np.testing.assert_allclose(moved, oracle, atol=1e-4)


@given(turns)
@settings(max_examples=100, deadline=None)
def test_a_turned_and_scaled_face_is_brought_back_exactly(
    turn: tuple[float, float, float, float],
) -> None:
    angle, scale, right, down = turn
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = REFERENCE @ rotation.T + (right, down)
    matrix = similarity_transforms(points[np.newaxis])[0]
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], REFERENCE, atol=1e-6)
    assert residuals(points[np.newaxis], matrix[np.newaxis])[0] < 1e-6


def test_a_mirrored_face_is_not_mirrored_back() -> None:
    mirrored = REFERENCE * (-1, 1)
    matrix = similarity_transforms(mirrored[np.newaxis])[0]
    assert np.linalg.det(matrix[:, :2]) > 0
    assert residuals(mirrored[np.newaxis], matrix[np.newaxis])[0] > 5


@pytest.mark.parametrize("value", [7.0, np.nan])
def test_points_that_show_no_face_are_refused(value: float) -> None:
    points = np.stack([REFERENCE.astype(float), np.full((5, 2), value)])
    with pytest.raises(MalformedInput, match="no face to align"):
        similarity_transforms(points)


@pytest.mark.parametrize("scale", [0.7, 2.0, 9.0])
def test_marked_points_of_a_picture_land_on_the_reference(scale: float) -> None:
    """Also those of a face so large that its pixels are averaged before it is aligned."""
    picture = np.zeros((1600, 1700, 3), np.uint8)
    turn = cv2.getRotationMatrix2D((56, 56), 30, scale)
    turn[:, 2] += (800, 750)
    points = (REFERENCE @ turn[:, :2].T + turn[:, 2]).astype(np.float32)
    for x, y in points:
        centre = (round(float(x) * 16), round(float(y) * 16))
        cv2.circle(picture, centre, round(2 * scale * 16), (255, 255, 255), -1, cv2.LINE_AA, 4)
    (chip,) = align(picture, points[np.newaxis])
    assert chip.shape == (SIDE, SIDE, 3)
    for x, y in REFERENCE:
        around = chip[round(float(y)) - 3 : round(float(y)) + 4, round(float(x)) - 3 :][:, :7, 0]
        rows, columns = np.nonzero(around > 127)
        np.testing.assert_allclose([columns.mean(), rows.mean()], [3, 3], atol=0.8)


def test_no_faces_are_no_chips() -> None:
    chips = align(np.zeros((10, 10, 3), np.uint8), np.empty((0, 5, 2), np.float32))
    assert chips.shape == (0, SIDE, SIDE, 3)
