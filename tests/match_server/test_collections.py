"""Collections: pinned to a model, bounded, changed and erased."""

import base64


def test_the_first_start_creates_the_default_collection_of_the_servers_model(api, helpers):
    view = api.ok("GET", "/v1/collections/default")
    assert view["model_id"] == helpers.MODEL
    assert (view["dimension"], view["template_bytes"]) == (512, 1024)
    assert view["policy"]["threshold"] == 0.35
    assert (view["templates"], view["persons"], view["encrypted"]) == (0, 0, False)


def test_a_collection_is_created_listed_changed_and_erased(api):
    made = api.ok("POST", "/v1/collections", json={"name": "staff", "policy": {"threshold": 0.5}})
    assert made["policy"]["threshold"] == 0.5
    listed = api.ok("GET", "/v1/collections?size=1&page=2")
    assert (listed["total"], listed["page"], listed["size"]) == (2, 2, 1)
    assert [one["name"] for one in listed["items"]] == ["staff"]
    changed = api.ok("PATCH", "/v1/collections/staff", json={"policy": {"margin": 0.1}})
    assert changed["policy"]["threshold"] == 0.5
    assert changed["policy"]["margin"] == 0.1
    assert changed["seq"] > made["seq"]
    erased = api.ok("DELETE", "/v1/collections/staff")
    assert erased["seq"] > changed["seq"]
    api.refused(404, "GET", "/v1/collections/staff")


def test_a_name_that_is_taken_is_a_conflict(api):
    body = api.refused(409, "POST", "/v1/collections", json={"name": "default"})
    assert body["code"] == "conflict"


def test_a_full_collection_refuses_the_next_template_and_keeps_its_count(api, helpers):
    api.ok("PATCH", "/v1/collections/default", json={"max_templates": 2})
    person = api.person("Ann", helpers.unit_vector(1))
    api.template(person, helpers.unit_vector(2))
    vector = helpers.encode(helpers.unit_vector(3))
    body = api.refused(
        409,
        "POST",
        f"/v1/collections/default/persons/{person}/templates",
        json={"template": vector, "model_id": helpers.MODEL},
    )
    assert "full" in body["message"]
    assert api.ok("GET", "/v1/collections/default")["templates"] == 2


def test_max_templates_cannot_fall_below_what_is_there(api, helpers):
    person = api.person("Ann", helpers.unit_vector(1))
    api.template(person, helpers.unit_vector(2))
    api.refused(409, "PATCH", "/v1/collections/default", json={"max_templates": 1})


def test_erasing_a_collection_takes_persons_photos_and_events_with_it(api, helpers):
    vector = helpers.unit_vector(1)
    person = api.person("Ann", vector)
    picture = helpers.paint(((0, 0, 200), 90))
    api.ok(
        "POST",
        f"/v1/collections/default/persons/{person}/images",
        json={"image": base64.b64encode(picture).decode(), "store": True},
    )
    api.send(api.probe(vector))
    erased = api.ok("DELETE", "/v1/collections/default")
    assert (erased["persons"], erased["templates"]) == (1, 2)
    assert (erased["images"], erased["snapshots"]) == (1, 1)
    assert api.ok("GET", "/v1/events")["total"] == 0
    files = [one for one in api.services.settings.data_dir.rglob("*/??/*") if one.is_file()]
    assert files == []


def test_a_collection_made_again_under_the_same_name_is_empty(api, helpers):
    api.person("Ann", helpers.unit_vector(1))
    assert api.names(helpers.unit_vector(1)) == ["Ann"]
    api.ok("DELETE", "/v1/collections/default")
    api.ok("POST", "/v1/collections", json={"name": "default"})
    assert api.names(helpers.unit_vector(1)) == []


def test_encryption_is_refused_until_it_is_offered(api):
    body = api.refused(400, "POST", "/v1/collections", json={"name": "safe", "encrypted": True})
    assert body["details"]["problems"][0]["field"] == "encrypted"
