"""The templates of a picture's faces, and of enrolled persons, for other programs."""

import base64

import numpy as np
from sqlalchemy import update

from match_server.db.tables import Template

RED, GREEN = (0, 0, 200), (0, 200, 0)
STAFF = "/v1/collections/default/persons"


def picture(helpers):
    return base64.b64encode(helpers.paint((RED, 50), (GREEN, 90))).decode()


def of(helpers, colour):
    return helpers.unit_vector(int.from_bytes(bytes(colour), "big")).astype(np.float16)


def decoded(text):
    return np.frombuffer(base64.b64decode(text), "<f2")


def test_every_face_of_a_picture_has_a_template_that_can_be_searched_with(api, helpers):
    api.person("Green", of(helpers, GREEN).astype(np.float32))
    answer = api.ok("POST", "/v1/embed", "searcher", json={"image": picture(helpers)})
    assert (answer["model_id"], answer["dimension"]) == (helpers.MODEL, 512)
    boxes, colours = [face["box"] for face in answer["faces"]], (GREEN, RED)
    assert boxes == [[138, 10, 228, 100], [10, 10, 60, 60]]
    for face, colour in zip(answer["faces"], colours, strict=True):
        np.testing.assert_array_equal(decoded(face["vector"]), of(helpers, colour))
        assert face["quality"]["factors"]
    templates = [
        {"vector": face["vector"], "model_id": answer["model_id"]} for face in answer["faces"]
    ]
    probes = api.ok(
        "POST", "/v1/collections/default/search", json={"templates": templates, "threshold": 0.5}
    )["probes"]
    assert [probe["decision"] for probe in probes] == ["identified", "unknown"]


def test_numbers_are_the_same_vector_and_go_back_in_as_they_came(api, helpers):
    body = {"image": picture(helpers), "collection": "default", "numbers": True}
    vector = api.ok("POST", "/v1/embed", json=body)["faces"][0]["vector"]
    np.testing.assert_array_equal(np.array(vector, np.float16), of(helpers, GREEN))
    made = {"name": "Green", "id": "g"}
    api.ok("POST", STAFF, json=made)
    body = {"template": vector, "model_id": helpers.MODEL}
    api.ok("POST", f"{STAFF}/g/templates", json=body)
    assert api.search(of(helpers, GREEN))["probes"][0]["candidates"][0]["similarity"] > 0.999


def test_who_may_not_search_gets_no_template(api, helpers):
    for role in ("viewer", "device"):
        api.refused(403, "POST", "/v1/embed", role, json={"image": picture(helpers)})
    api.refused(404, "POST", "/v1/embed", json={"image": picture(helpers), "collection": "nowhere"})
    empty = base64.b64encode(helpers.paint()).decode()
    assert api.ok("POST", "/v1/embed", json={"image": empty})["faces"] == []


def test_the_vector_of_an_enrolled_template_is_for_enrollers(api, helpers):
    person = api.person("Ann")
    template = api.template(person, of(helpers, RED).astype(np.float32))["id"]
    path = f"/v1/templates/{template}"
    view = api.ok("GET", path, "searcher")
    assert (view["person"], view["model_id"], view["vector"]) == (person, helpers.MODEL, None)
    api.refused(403, "GET", f"{path}?vector=1", "searcher")
    view = api.ok("GET", f"{path}?vector=1", "enroller")
    np.testing.assert_array_equal(decoded(view["vector"]), of(helpers, RED))
    api.refused(404, "GET", "/v1/templates/none?vector=1", "enroller")
    entries = api.ok("GET", f"/v1/audit?subject={template}&size=50")["items"]
    assert "GET /v1/templates/<template>" in {entry["action"] for entry in entries}


def test_the_vector_of_a_damaged_template_is_not_given(api, helpers):
    template = api.template(api.person("Ann"), helpers.unit_vector(1))["id"]
    other = helpers.unit_vector(2).astype("<f2").tobytes()
    with api.services.database.write() as session:
        session.execute(update(Template).values(vector=other))
    refused = api.refused(500, "GET", f"/v1/templates/{template}?vector=1")
    assert template in refused["message"]
