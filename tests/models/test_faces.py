"""The real models on real faces: templates, batches, pose, liveness, quality."""

import io
from itertools import combinations, product
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from models.face_models import FaceModels
from models.images.decoding import read_picture
from models.quality.gates import DOORWAY, OFF, PASSPORT
from models.quality.pose import poses_from_points
from models.samples import sample_path
from models.types import Face
from shared.errors import NotFound, PackError
from shared.wire.template import Template
from tests.models.conftest import read, sample

pytestmark = pytest.mark.models


def the_face(faces: FaceModels, name: str) -> Face:
    (face,) = faces.analyze(sample(name), gate=OFF)
    return face


def template(faces: FaceModels, name: str) -> Template:
    face = the_face(faces, name)
    assert face.template is not None
    return face.template


def similarity(a: Template, b: Template) -> float:
    return float(a.vector @ b.vector)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("obama2.jpg", 0.69),
        ("obama3.jpg", 0.69),
        ("biden.jpg", -0.11),
        ("obama_partial_face.jpg", 0.88),
        ("obama_partial_face2.jpg", 0.84),
    ],
)
def test_the_portraits_are_as_alike_as_they_were_measured(
    faces: FaceModels, other: str, expected: float
) -> None:
    measured = similarity(template(faces, "obama.jpg"), template(faces, other))
    assert measured == pytest.approx(expected, abs=0.05)


def test_mated_pairs_score_above_all_others(faces: FaceModels, people: Path) -> None:
    """Eight people, five pictures each; the threshold that fits this model is 0.35."""
    templates: dict[str, list[Template]] = {}
    for folder in sorted(path for path in people.iterdir() if path.name != "groups"):
        for path in sorted(folder.iterdir()):
            detections = faces.analyze(read(path), gate=OFF)
            largest = max(detections, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))
            assert largest.template is not None
            templates.setdefault(folder.name, []).append(largest.template)
    assert len(templates) >= 8
    mated = [similarity(a, b) for mine in templates.values() for a, b in combinations(mine, 2)]
    others = [
        similarity(a, b)
        for one, two in combinations(templates.values(), 2)
        for a, b in product(one, two)
    ]
    assert min(mated) > max(others)
    assert np.mean([score > 0.35 for score in mated]) > 0.95
    assert max(others) < 0.35
    assert np.mean(mated) > 0.6


def test_people_in_group_pictures_are_found_among_the_enrolled(
    faces: FaceModels, far_seeing: FaceModels, people: Path
) -> None:
    """Most of the faces of a group are somebody's, and nobody is there twice."""
    for models in (faces, far_seeing):
        known = {
            folder.name: models.analyze(read(sorted(folder.iterdir())[0]), gate=OFF)[0].template
            for folder in sorted(people.iterdir())
            if folder.name != "groups"
        }
        named, total = 0, 0
        for path in sorted((people / "groups").iterdir()):
            names = []
            for face in models.analyze(read(path), gate=OFF):
                assert face.template is not None
                scores = {
                    name: similarity(face.template, mine) for name, mine in known.items() if mine
                }
                best = max(scores, key=lambda name: scores[name])
                total += 1
                if scores[best] > 0.35:
                    names.append(best)
            assert len(set(names)) == len(names)
            named += len(names)
        assert named / total > 0.8


def test_a_batch_gives_each_chip_the_template_that_it_has_alone(faces: FaceModels) -> None:
    names = ("obama.jpg", "biden.jpg", "astronaut.png", "grace_hopper.jpg")
    chips = np.stack([the_face(faces, name).chip for name in names])
    together = faces.embed(chips)
    for chip, mine in zip(chips, together, strict=True):
        (alone,) = faces.embed(chip[np.newaxis])
        np.testing.assert_allclose(mine.vector, alone.vector, atol=1e-5)
    assert {one.model_id for one in together} == {faces.model_id} == {"compact-mobilefacenet-512@1"}
    assert {one.dimension for one in together} == {faces.dimension} == {512}


def test_landmarks_of_a_batch_are_those_of_each_face(faces: FaceModels) -> None:
    frame = np.concatenate([cv2.resize(sample(f"obama{n}.jpg"), (420, 720)) for n in ("", 2, 3)], 1)
    detections = faces.detect(frame)
    assert len(detections) == 3
    together = faces.locate(frame, detections)
    for row in range(3):
        alone = faces.locate(frame, detections.take(np.array([row])))
        np.testing.assert_allclose(together.points5[row], alone.points5[0], atol=0.05)


def test_everything_lies_in_pixels_of_the_source_picture(faces: FaceModels) -> None:
    face = the_face(faces, "obama.jpg")
    assert face.points68 is not None
    margin = 0.1 * (face.box[2:] - face.box[:2])
    assert (face.points68.min(axis=0) > face.box[:2] - margin).all()
    assert (face.points68.max(axis=0) < face.box[2:] + margin).all()
    left, right, nose, mouth_left, mouth_right = face.points5
    assert left[0] < nose[0] < right[0]
    assert left[1] < nose[1] < mouth_left[1]
    assert mouth_left[0] < mouth_right[0]
    assert face.chip.shape == (112, 112, 3)


def test_a_mirrored_face_turns_the_other_way(faces: FaceModels) -> None:
    """Both estimates: the graph's and the one from points; positive is to the picture's right."""
    for name, turned in (("obama2.jpg", -1), ("biden.jpg", 1)):
        face = the_face(faces, name)
        (mirrored,) = faces.analyze(np.ascontiguousarray(sample(name)[:, ::-1]), gate=OFF)
        by_points = poses_from_points(np.stack([face.points5, mirrored.points5]))
        assert face.pose is not None
        assert mirrored.pose is not None
        for pose, opposite in ((face.pose, mirrored.pose), (by_points[0], by_points[1])):
            assert turned * pose.yaw > 5
            assert turned * opposite.yaw < -5


@pytest.mark.parametrize("degrees", [-25, 25])
def test_a_tilted_picture_tilts_the_pose_clockwise(faces: FaceModels, degrees: float) -> None:
    picture = sample("astronaut.png")
    middle = (picture.shape[1] / 2, picture.shape[0] / 2)
    turn = cv2.getRotationMatrix2D(middle, -degrees, 1.0)  # OpenCV counts anticlockwise
    tilted = cv2.warpAffine(picture, turn, picture.shape[1::-1]).astype(np.uint8)
    level, (face,) = the_face(faces, "astronaut.png"), faces.analyze(tilted, gate=OFF)
    assert level.pose is not None
    assert face.pose is not None
    assert face.pose.roll - level.pose.roll == pytest.approx(degrees, abs=8)
    (by_points,) = poses_from_points(face.points5[np.newaxis])
    assert by_points.roll == pytest.approx(degrees + level.pose.roll, abs=8)


def test_portraits_pass_at_the_door_and_a_blurred_one_does_not(faces: FaceModels) -> None:
    for name in ("obama.jpg", "biden.jpg", "astronaut.png", "grace_hopper.jpg"):
        (face,) = faces.analyze(sample(name), gate=DOORWAY)
        assert face.quality.passed, (name, face.quality.reasons)
        assert face.quality.score > 0.6
    blurred = cv2.GaussianBlur(sample("obama.jpg"), (0, 0), 14).astype(np.uint8)
    (face,) = faces.analyze(blurred, gate=DOORWAY)
    assert "sharpness" in face.quality.reasons


def test_an_official_portrait_passes_as_a_passport_picture(faces: FaceModels) -> None:
    (face,) = faces.analyze(sample("obama.jpg"), gate=PASSPORT)
    assert face.quality.reasons == []
    (cut,) = faces.analyze(sample("obama_partial_face.jpg"), gate=PASSPORT)
    assert "missing" in cut.quality.reasons
    (turned,) = faces.analyze(sample("obama2.jpg"), gate=PASSPORT)
    assert "yaw" in turned.quality.reasons


def test_open_eyes_are_seen_as_open(faces: FaceModels) -> None:
    for name in ("obama.jpg", "biden.jpg", "grace_hopper.jpg"):
        values = {one.name: one.value for one in the_face(faces, name).quality.factors}
        assert values["eyes_open"] > 0.5


def test_liveness_is_a_score_and_only_a_score(faces: FaceModels) -> None:
    live = faces.liveness(sample("obama.jpg"), faces.detect(sample("obama.jpg")).boxes)
    assert live is not None
    assert live.shape == (1,)
    assert 0 <= live[0] <= 1


def test_the_man_of_the_sample_film_is_found_in_every_frame(faces: FaceModels) -> None:
    film = cv2.VideoCapture(str(sample_path("carphone_pristine.mp4")))
    counts = []
    while True:
        there, frame = film.read()
        if not there:
            break
        counts.append(len(faces.detect(frame.astype(np.uint8))))
    film.release()
    assert len(counts) == 120
    assert set(counts) == {1}


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (2, 2), (240, 320)])
def test_a_picture_without_faces_has_none(faces: FaceModels, size: tuple[int, int]) -> None:
    empty = np.full((*size, 3), 60, np.uint8)
    assert faces.analyze(empty) == []
    assert len(faces.detect(empty)) == 0
    nothing = faces.detect(empty)
    assert faces.locate(empty, nothing).points5.shape == (0, 5, 2)
    assert faces.head_poses(empty, nothing.boxes) == []
    assert faces.assess(empty, nothing, faces.locate(empty, nothing)) == []


def test_a_picture_is_not_changed_by_looking_at_it(faces: FaceModels) -> None:
    picture = sample("biden.jpg")
    before = picture.copy()
    faces.analyze(picture)
    np.testing.assert_array_equal(picture, before)


def test_without_embedding_there_is_no_template(faces: FaceModels) -> None:
    (face,) = faces.analyze(sample("biden.jpg"), embed=False)
    assert face.template is None


def test_a_rotated_phone_picture_is_recognised(faces: FaceModels) -> None:
    """Bytes with an EXIF orientation, all the way to the template."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    with Image.open(sample_path("biden.jpg")) as upright:
        upright.transpose(Image.Transpose.ROTATE_90).save(stream, "JPEG", exif=exif, quality=92)
    (face,) = faces.analyze(read_picture(stream.getvalue()))
    assert face.template is not None
    assert similarity(face.template, template(faces, "biden.jpg")) > 0.95


def test_a_sample_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(NotFound, match=r"obama\.jpg"):
        sample_path("nobody.jpg")


def test_the_samples_must_be_installed(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="face-models pull samples"):
        sample_path("obama.jpg", cache=tmp_path)
