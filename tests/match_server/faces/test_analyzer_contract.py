"""The server's contract with face models: painted and real models both fulfil it."""

import base64
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from match_server.services.faces.engines import face_engine
from match_server.services.faces.face_choice import FaceChoice, box_of
from match_server.services.faces.face_engine import GATES, FaceEngine
from models.images.decoding import PictureLimits
from shared.errors import NoFace


@pytest.fixture(params=["painted", pytest.param("real", marks=pytest.mark.models)])
def engine_and_pictures(request, helpers):
    """An engine, a picture with a face, and one without."""
    if request.param == "painted":
        engine = FaceEngine(helpers.MODEL, 512, helpers.PaintedFaces)
        return engine, helpers.paint(((0, 0, 200), 80)), helpers.paint()
    from models.samples import sample_path

    return face_engine("compact"), sample_path("obama.jpg").read_bytes(), helpers.paint()


def test_a_face_has_a_unit_template_of_the_engines_model_and_dimension(engine_and_pictures):
    engine, picture, _ = engine_and_pictures
    face, count = engine.largest(picture)
    assert count == 1
    assert face.template.model_id == engine.model_id
    assert face.template.dimension == engine.dimension
    assert 0 <= face.quality.score <= 1
    assert np.all(face.box[2:] > face.box[:2])


def test_without_embedding_there_is_no_template(engine_and_pictures):
    engine, picture, _ = engine_and_pictures
    assert [one.template for one in engine.analyze(picture, embed=False)] == [None]


def test_a_picture_without_a_face_is_an_empty_list_and_has_no_largest(engine_and_pictures):
    engine, _, empty = engine_and_pictures
    assert engine.analyze(empty) == []
    with pytest.raises(NoFace):
        engine.largest(empty)


@pytest.mark.parametrize("gate", GATES)
def test_a_good_picture_can_be_judged_by_every_gate(engine_and_pictures, gate):
    engine, picture, _ = engine_and_pictures
    (face,) = engine.analyze(picture, gate=gate, embed=False)
    assert face.quality.factors
    if gate == "off":
        assert face.quality.passed


@pytest.mark.models
def test_enrollment_and_search_with_real_models(make_api):
    """Enroll three people from one photo each; other photos of them are identified."""
    from models.samples import sample_path

    api = make_api(faces=face_engine("compact"))

    def photo(name):
        return {"image": base64.b64encode(sample_path(name).read_bytes()).decode()}

    persons = "/v1/collections/default/persons"
    ids = {}
    for name in ("obama.jpg", "biden.jpg", "astronaut.png"):
        ids[name] = api.ok("POST", persons, json={"name": name})["id"]
        made = api.ok("POST", f"{persons}/{ids[name]}/images?store=1", json=photo(name))
        assert len(made["detection"]["landmarks"]) == 68
    for name in ("obama2.jpg", "obama3.jpg"):
        search = "/v1/collections/default/search"
        answer = api.ok("POST", search, json=photo(name))["probes"][0]
        assert answer["decision"] == "identified"
        assert answer["person"]["id"] == ids["obama.jpg"]
        assert answer["candidates"][0]["similarity"] == pytest.approx(0.69, abs=0.05)
        assert answer["candidates"][1]["similarity"] < 0.3
    images = f"{persons}/{ids['biden.jpg']}/images"
    lookalike = api.refused(409, "POST", images, json=photo("obama2.jpg"))
    assert lookalike["details"]["lookalike"]["id"] == ids["obama.jpg"]


@pytest.mark.models
def test_faces_of_a_jpeg_read_at_a_fraction_are_in_the_pixels_of_the_file():
    from models.samples import sample_path

    picture = sample_path("obama.jpg").read_bytes()
    whole, _ = face_engine("compact").largest(picture)
    small, _ = face_engine("compact", PictureLimits(max_pixels=300_000)).largest(picture)
    width = whole.box[2] - whole.box[0]
    assert np.abs(small.box - whole.box).max() < 0.1 * width
    assert np.abs(small.points5 - whole.points5).max() < 0.1 * width


@pytest.fixture
def two_faces(helpers):
    return helpers.paint(((0, 0, 200), 60), ((0, 200, 0), 80))


@pytest.fixture
def counting(helpers):
    """An engine of painted faces, and how many faces each call analyzed."""
    counts = []

    class Counting(helpers.PaintedFaces):
        def analyze(self, image, faces, **options):
            counts.append(len(faces))
            return super().analyze(image, faces, **options)

    return FaceEngine(helpers.MODEL, 512, Counting), counts


def test_only_faces_that_the_result_needs_are_analyzed(counting, two_faces):
    engine, counts = counting
    all_faces = engine.analyze(two_faces)
    largest, count = engine.largest(two_faces)
    chosen = engine.chosen(two_faces, FaceChoice(face=1))
    at_box = engine.face_at(two_faces, box_of(all_faces[1]))
    assert (count, counts) == (2, [2, 1, 1, 1])
    assert (chosen.index, chosen.faces) == (1, 2)
    for face, expected in ((largest, 0), (chosen.face, 1), (at_box, 1)):
        assert face.box.tolist() == all_faces[expected].box.tolist()
        np.testing.assert_array_equal(face.template.vector, all_faces[expected].template.vector)
    assert engine.face_at(two_faces, (0.0, 100.0, 9.0, 109.0)) is None


def test_as_many_pictures_as_the_limit_allows_are_analyzed_at_the_same_time(helpers, two_faces):
    at_once = 3
    together, excess = threading.Barrier(at_once), threading.Semaphore(at_once)

    class Meeting(helpers.PaintedFaces):
        def find(self, image):
            assert excess.acquire(blocking=False)
            together.wait(20)
            excess.release()
            return super().find(image)

    engine = FaceEngine(helpers.MODEL, 512, Meeting, PictureLimits(at_once=at_once))
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: engine.largest(two_faces)[1], range(2 * at_once)))
    assert counts == [2] * 2 * at_once


@pytest.mark.models
@pytest.mark.parametrize("name", ["obama2.jpg", "astronaut.png"])
def test_a_search_gets_the_template_of_an_enrollment_without_liveness(name):
    from models.samples import sample_path

    picture = sample_path(name).read_bytes()
    engine = face_engine("compact")
    searched, _ = engine.largest(picture, gate="doorway")
    enrolled = engine.chosen(picture, FaceChoice(), gate="doorway").face
    np.testing.assert_array_equal(searched.template.vector, enrolled.template.vector)
    assert searched.liveness is None
    assert enrolled.liveness is not None
    assert abs(searched.pose.yaw - enrolled.pose.yaw) < 15
    assert [factor.name for factor in searched.quality.factors] == [
        factor.name for factor in enrolled.quality.factors
    ]
    assert searched.quality.passed == enrolled.quality.passed
