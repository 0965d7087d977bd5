"""What is surely a face, and what a detector merely takes for one."""

from itertools import islice

import cv2
import numpy as np
import pytest

from models.face_check import certainty
from models.quality.gates import OFF
from tests.benchmarks.accuracy.enrolling import without_people
from tests.models.conftest import sample

pytestmark = pytest.mark.models
PORTRAITS = ["astronaut.png", "obama.jpg", "biden.jpg"]


@pytest.mark.parametrize("name", PORTRAITS)
def test_a_face_is_surely_one_also_turned_over_small_and_dark(faces, name):
    whole = sample(name)
    small = cv2.resize(whole, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
    dark = (255 * (whole / 255.0) ** 2).astype(np.uint8)
    bright = np.clip(1.8 * whole, 0, 255).astype(np.uint8)
    coarse = cv2.imdecode(cv2.imencode(".jpg", whole, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], 1)
    for picture in (whole, small, dark, bright, coarse, np.ascontiguousarray(whole[:, ::-1])):
        (face,) = faces.analyze(picture, gate=OFF, embed=False)
        assert faces.certainty(picture, face) > 0.8


def test_drawn_faces_are_none(faces):
    count = 0
    for picture in islice(without_people(None, np.random.default_rng(7)), 60):
        drawn = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        for face in faces.analyze(drawn, gate=OFF, embed=False):
            count += 1
            assert faces.certainty(drawn, face) < 0.5
    assert count >= 10  # that the detector takes for faces


def test_a_box_where_there_is_no_face_is_none(faces):
    picture = sample("astronaut.png")
    (face,) = faces.analyze(picture, gate=OFF, embed=False)
    parts = faces._parts
    elsewhere = face.box + np.float32(1.5 * (face.box[2] - face.box[0]))
    value = certainty(
        parts.detector, parts.landmarks, picture, elsewhere, 0.95, face.points5, clear_score=1.0
    )
    assert value < 0.1


def test_a_face_at_the_edge_of_the_picture_can_be_judged(faces):
    picture = sample("astronaut.png")
    (face,) = faces.analyze(picture, gate=OFF, embed=False)
    x1, y1, x2, _ = (int(value) for value in face.box)
    cut = np.ascontiguousarray(picture[y1:, : (x1 + x2) // 2])
    for half in faces.analyze(cut, gate=OFF, embed=False):
        assert 0 <= faces.certainty(cut, half) <= 1
