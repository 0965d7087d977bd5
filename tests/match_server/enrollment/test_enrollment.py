"""Enrollment of pictures and templates."""

import base64
import io
import tempfile

import numpy as np
import pytest
from sqlalchemy import update
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from match_server.db.tables import Image

PERSONS = "/v1/collections/default/persons"
RED, GREEN, BLUE, DARK = (0, 0, 200), (0, 200, 0), (200, 0, 0), (10, 20, 5)


def _enroll(api, person, picture, status=201, **parameters):
    response = api.call(
        "POST",
        f"{PERSONS}/{person}/images",
        data={"image": (io.BytesIO(picture), "a.png")},
        query_string=parameters,
    )
    assert response.status_code == status, response.get_data(as_text=True)
    return response.get_json()


def test_a_picture_is_enrolled_and_found(api, helpers):
    person = api.person("Ann")
    made = _enroll(api, person, helpers.paint((RED, 80)))
    assert made["detection"]["faces"] == 1
    assert made["detection"]["box"] == [10, 10, 90, 90]
    assert made["url"] is None
    answer = api.search(helpers.unit_vector(int.from_bytes(bytes(RED), "big")))
    assert answer["seq"] >= made["seq"]
    best = answer["probes"][0]["candidates"][0]
    assert (best["person"]["id"], best["template_id"]) == (person, made["template_id"])


def test_base64_form_fields_and_query_say_the_same(api, helpers):
    person = api.person("Ann")
    picture = helpers.paint((RED, 80))
    text = base64.b64encode(picture).decode()
    first = api.ok("POST", f"{PERSONS}/{person}/images", json={"image": text, "store": True})
    second = api.ok("POST", f"{PERSONS}/{person}/images?store=1", json={"image": text})
    third = api.call(
        "POST",
        f"{PERSONS}/{person}/images",
        data={"image": (io.BytesIO(picture), "a.png"), "store": "1"},
    ).get_json()
    for made in (first, second, third):
        content = api.call("GET", made["url"])
        assert (content.data, content.content_type) == (picture, "image/png")


def test_a_large_photo_comes_through_a_form(api, helpers):
    picture = helpers.paint((RED, 80)) + bytes(400_000)  # padding after the picture's end
    made = _enroll(api, api.person("Ann"), picture, store=1)
    assert api.call("GET", made["url"]).data == picture


@pytest.mark.backends("sqlite")
def test_an_upload_is_never_written_to_the_temporary_folder(api, helpers, monkeypatch, tmp_path):
    picture = helpers.paint((RED, 80)) + bytes(3_000_000)
    form = {"image": FileStorage(io.BytesIO(picture), "a.png"), "store": "1"}
    boundary, body = encode_multipart(form)
    path = f"{PERSONS}/{api.person('Ann')}/images"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    made = api.ok("POST", path, data=body, content_type=f"multipart/form-data; boundary={boundary}")
    assert api.call("GET", made["url"]).data == picture


@pytest.mark.backends("sqlite")
def test_base64_may_be_wrapped_or_a_data_url(api, helpers):
    picture = helpers.paint((RED, 80))
    wrapped = base64.encodebytes(picture).decode()
    assert wrapped.count("\n") > 1
    for text in (
        wrapped,
        wrapped.replace("\n", "\r\n"),
        f"data:image/png;base64,{base64.b64encode(picture).decode()}",
        f" DATA:image/png;charset=x;BASE64,{wrapped}",
    ):
        assert len(api.ok("POST", "/v1/detect", json={"image": text})["faces"]) == 1
    for text, problem in (
        ("data:image/svg+xml,%3Csvg%3E", "is a data URL that is not in base64"),
        ("data:image/png;base64", "is a data URL that is not in base64"),
        ("https://example.org/a.jpg", "is not base64"),
    ):
        body = api.refused(400, "POST", "/v1/detect", json={"image": text})
        assert problem in body["message"]


@pytest.mark.backends("sqlite")
def test_a_jpeg_of_several_pictures_was_called_by_another_name_before(api, helpers):
    made = _enroll(api, api.person("Ann"), helpers.paint((RED, 80)), store=1)
    with api.services.database.write() as session:
        session.execute(update(Image).values(media_type="image/mpo"))
    assert api.call("GET", made["url"]).content_type == "image/jpeg"
    assert api.ok("GET", f"/v1/images/{made['image_id']}")["media_type"] == "image/jpeg"


def test_the_largest_of_several_faces_is_enrolled_and_their_number_told(api, helpers):
    person = api.person("Ann")
    made = _enroll(api, person, helpers.paint((GREEN, 40), (RED, 100), (BLUE, 60)))
    assert made["detection"]["faces"] == 3
    red = helpers.unit_vector(int.from_bytes(bytes(RED), "big"))
    assert api.search(red)["probes"][0]["candidates"][0]["similarity"] > 0.99


def test_a_picture_without_a_face_is_unusable(api, helpers):
    body = _enroll(api, api.person("Ann"), helpers.paint(), status=422)
    assert (body["code"], body["details"]["reasons"]) == ("no_face", ["no_face"])


def test_bad_quality_is_refused_with_its_reasons_unless_forced(api, helpers):
    person = api.person("Ann")
    body = _enroll(api, person, helpers.paint((DARK, 80)), status=422)
    assert (body["code"], body["details"]["reasons"]) == ("quality_refused", ["brightness"])
    assert api.ok("GET", "/v1/collections/default")["templates"] == 0
    made = _enroll(api, person, helpers.paint((DARK, 80)), force=1)
    assert made["quality"]["factors"][0]["passed"] is False


def test_the_gate_is_the_collections_policy(api, helpers):
    api.ok("PATCH", "/v1/collections/default", json={"policy": {"gate": "off"}})
    _enroll(api, api.person("Ann"), helpers.paint((DARK, 80)))


def test_a_face_that_belongs_to_another_is_a_conflict_unless_forced(api, helpers):
    ann, bob = api.person("Ann"), api.person("Bob")
    picture = helpers.paint((RED, 80))
    _enroll(api, ann, picture)
    body = _enroll(api, bob, picture, status=409)
    assert body["details"]["lookalike"] == {"id": ann, "name": "Ann"}
    assert body["details"]["similarity"] > 0.99
    _enroll(api, ann, picture)  # the person's own face is no lookalike
    _enroll(api, bob, picture, force=1)


def test_many_templates_of_ones_own_do_not_hide_a_lookalike(api, helpers):
    base = helpers.unit_vector(1)
    ann = api.person("Ann", helpers.unit_vector(2, near=base, similarity=0.6))
    bob = api.person("Bob")
    for seed in range(20):
        api.template(bob, helpers.unit_vector(10 + seed, near=base, similarity=0.95))
    body = api.refused(
        409,
        "POST",
        f"{PERSONS}/{bob}/images",
        json={"template": helpers.encode(base), "model_id": helpers.MODEL},
    )
    assert body["details"]["lookalike"]["id"] == ann


def test_a_template_of_elsewhere_is_taken_as_base64_or_as_numbers(api, helpers):
    vector = helpers.unit_vector(1)
    person = api.person("Ann")
    for template in (helpers.encode(vector), [float(value) for value in vector]):
        body = {"template": template, "model_id": helpers.MODEL}
        api.ok("POST", f"{PERSONS}/{person}/templates", json=body)
    listed = api.ok("GET", f"{PERSONS}/{person}/templates")
    assert listed["total"] == 2
    assert "vector" not in listed["items"][0]
    assert "template" not in listed["items"][0]


def test_a_template_of_another_model_is_a_mismatch_and_never_a_low_score(api, helpers):
    person = api.person("Ann", helpers.unit_vector(1))
    foreign = {"template": helpers.encode(helpers.unit_vector(1)), "model_id": "other@2"}
    for path in (f"{PERSONS}/{person}/templates", f"{PERSONS}/{person}/images"):
        assert api.refused(409, "POST", path, json=foreign)["code"] == "model_mismatch"
    search = {"templates": [{"vector": foreign["template"], "model_id": "other@2"}]}
    body = api.refused(409, "POST", "/v1/collections/default/search", json=search)
    assert body["code"] == "model_mismatch"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda vector: vector[:-1] / np.linalg.norm(vector[:-1]),
        lambda vector: vector * 2,
        lambda vector: vector * 0,
        lambda vector: np.where(np.arange(512) == 3, np.nan, vector),
        lambda vector: np.where(np.arange(512) == 3, np.inf, vector),
    ],
    ids=["511 values", "length 2", "zero", "NaN", "infinite"],
)
def test_a_vector_that_is_no_unit_vector_of_the_model_is_refused(api, helpers, spoil):
    person = api.person("Ann")
    bad = spoil(helpers.unit_vector(1)).astype(np.float32)
    texts = [helpers.encode(bad)]
    if np.isfinite(bad).all():
        texts.append([float(value) for value in bad])
    for template in texts:
        body = {"template": template, "model_id": helpers.MODEL}
        api.refused(400, "POST", f"{PERSONS}/{person}/templates", json=body)
    assert api.ok("GET", "/v1/collections/default")["templates"] == 0


def test_removing_an_image_removes_its_template_and_its_photo(api, helpers):
    person = api.person("Ann")
    made = _enroll(api, person, helpers.paint((RED, 80)), store=1)
    image = api.ok("GET", f"/v1/images/{made['image_id']}")
    assert image["template_ids"] == [made["template_id"]]
    assert image["stored"] is True
    removed = api.ok("DELETE", f"/v1/images/{made['image_id']}")
    assert (removed["images"], removed["templates"]) == (1, 1)
    api.refused(404, "GET", made["url"])
    assert api.search(helpers.unit_vector(1))["searched"] == 0
    assert api.ok("GET", "/v1/collections/default")["templates"] == 0


def test_removing_a_template_keeps_the_image(api, helpers):
    person = api.person("Ann")
    made = _enroll(api, person, helpers.paint((RED, 80)))
    api.ok("DELETE", f"/v1/templates/{made['template_id']}")
    image = api.ok("GET", f"/v1/images/{made['image_id']}")
    assert image["template_ids"] == []
    api.refused(404, "GET", f"/v1/images/{made['image_id']}/content")
    removed = api.ok("DELETE", f"/v1/images/{made['image_id']}")
    assert removed["templates"] == 0
    assert removed["seq"] > made["seq"]


def test_without_models_vectors_work_and_pictures_say_what_is_missing(api, helpers):
    from shared.errors import PackError

    def not_installed():
        raise PackError("the pack 'compact' is not installed: face-models pull compact")

    api.services.faces._open = not_installed
    person = api.person("Ann", helpers.unit_vector(1))
    assert api.names(helpers.unit_vector(1)) == ["Ann"]
    body = _enroll(api, person, helpers.paint((RED, 80)), status=503)
    assert "face-models pull compact" in body["message"]
