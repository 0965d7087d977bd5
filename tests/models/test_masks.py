"""Faces with a mask are aligned by their eyes; faces without one as ever."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.alignment import REFERENCE, align, similarity_transforms
from models.face_models import FaceModels
from models.quality.score import is_lower_face_covered
from models.types import BgrImage
from shared.wire.quality import Quality, QualityFactor
from tests.models.conftest import read, sample

PORTRAITS = ("obama.jpg", "obama2.jpg", "obama3.jpg", "biden.jpg", "astronaut.png")


def occluded(**shares: float) -> Quality:
    factors = [
        QualityFactor(name=f"occlusion_{name}", value=value, low=0, high=1, passed=True)
        for name, value in shares.items()
    ]
    return Quality(score=0.5, factors=tuple(factors))


@pytest.mark.parametrize(
    ("shares", "covered"),
    [
        ({}, False),
        ({"mouth": 0.9}, False),
        ({"mouth": 0.9, "nose": 0.4, "eye": 0.0}, True),
        ({"mouth": 0.9, "nose": 0.0, "eye": 0.0}, False),  # a beard
        ({"mouth": 0.0, "nose": 0.4, "eye": 0.9}, False),  # dark glasses
        ({"mouth": 0.9, "nose": 0.9, "eye": 0.9}, False),  # the eyes are guesses too
    ],
)
def test_a_lower_face_is_covered_where_mouth_and_nose_are_and_eyes_are_not(
    shares: dict[str, float], covered: bool
) -> None:
    assert is_lower_face_covered(occluded(**shares)) is covered


def test_alignment_by_the_eyes_does_not_depend_on_nose_and_mouth() -> None:
    picture = np.random.default_rng(1).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    points = REFERENCE[np.newaxis] + 40
    moved = points.copy()
    moved[:, 2:] += 15
    np.testing.assert_array_equal(
        align(picture, points, eyes_only=True), align(picture, moved, eyes_only=True)
    )
    assert (align(picture, points) != align(picture, moved)).any()
    (transform,) = similarity_transforms(points[:, :2], REFERENCE[:2])
    np.testing.assert_allclose(transform, [[1, 0, -40], [0, 1, -40]], atol=1e-4)


def masked(faces: FaceModels, picture: BgrImage) -> BgrImage:
    """The picture with a light cloth drawn from the bridge of the nose to the chin."""
    (points,) = faces.analyze(picture, embed=False)[0:1]
    assert points.points68 is not None
    jaw, top = points.points68[2:15], points.points68[28]
    outline = np.vstack([points.points68[1], jaw, points.points68[15], top])
    worn = picture.copy()
    cv2.fillPoly(worn, [np.round(outline).astype(np.int32)], (210, 190, 150))
    return worn


def similarities(
    faces: FaceModels, picture: BgrImage, reference: NDArray[np.float32]
) -> tuple[float, float]:
    """Of a masked face to a reference: aligned by five points, and as `analyze` does it."""
    (face,) = faces.analyze(picture)
    assert is_lower_face_covered(face.quality)
    assert face.template is not None
    (by_five,) = faces.embed(align(picture, face.points5[np.newaxis]))
    return float(by_five.vector @ reference), float(face.template.vector @ reference)


@pytest.mark.models
def test_masked_faces_are_more_alike_to_themselves_when_aligned_by_the_eyes(
    faces: FaceModels,
) -> None:
    rows = []
    for name in PORTRAITS:
        picture = sample(name)
        (bare,) = faces.analyze(picture)
        assert bare.template is not None
        rows.append(similarities(faces, masked(faces, picture), bare.template.vector))
    by_five, by_eyes = np.array(rows).mean(axis=0)
    assert by_eyes > by_five + 0.02, rows


@pytest.mark.models
def test_faces_without_a_mask_have_the_templates_that_they_had(
    faces: FaceModels, people: Path
) -> None:
    pictures = [sample(name) for name in PORTRAITS]
    pictures += [read(path) for path in sorted(people.glob("[!g]*/*"))[:10]]
    for picture in pictures:
        for face in faces.analyze(picture):
            (before,) = faces.embed(align(picture, face.points5[np.newaxis]))
            assert face.template is not None
            np.testing.assert_array_equal(face.template.vector, before.vector)
