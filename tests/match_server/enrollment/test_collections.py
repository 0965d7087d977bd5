"""Collections: their model, limits, changes and erasure."""

import base64
import json
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest
from sqlalchemy import func, select

from match_server.db.tables import Person, Template
from match_server.schemas.batches import BatchQuery
from match_server.schemas.collections import CollectionCreate, Policy
from match_server.services.batches.reader import picture_item
from match_server.services.faces.engines import face_engine
from match_server.services.faces.face_engine import GATES


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
    vector = helpers.unit_vector(int.from_bytes(bytes((0, 0, 200)), "big"))  # of the picture's face
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


def test_collections_are_found_by_part_of_the_name_and_by_model(api, helpers):
    for name in ("staff-north", "staff-south", "visitors"):
        api.ok("POST", "/v1/collections", json={"name": name})
    page = api.ok("GET", "/v1/collections?q=STAFF&size=1")
    assert (page["total"], [item["name"] for item in page["items"]]) == (2, ["staff-north"])
    assert api.ok("GET", f"/v1/collections?model_id={helpers.MODEL}")["total"] == 4
    assert api.ok("GET", "/v1/collections?model_id=other")["total"] == 0


def test_many_at_once_fill_a_collection_to_its_limit_and_no_further(make_api, helpers):
    """Single enrollments and batches of two processes compete for the last templates."""
    apis = [make_api(), make_api()]
    apis[0].ok("PATCH", "/v1/collections/default", json={"max_templates": 37})
    person = apis[0].person("Ann")
    for one in apis:
        one.key("admin")

    def single(api, seed):
        vector = {"template": helpers.encode(helpers.unit_vector(seed)), "model_id": helpers.MODEL}
        path = f"/v1/collections/default/persons/{person}/templates"
        response = _client(api).open(path, method="POST", json=vector, headers=_key(api))
        assert response.status_code in (201, 409), response.get_data(as_text=True)
        return int(response.status_code == 201)

    def batch(api, seed):
        lines = [
            {
                "name": f"P{seed}",
                "template": helpers.encode(helpers.unit_vector(seed + place)),
                "model_id": helpers.MODEL,
            }
            for place in range(5)
        ]
        response = _client(api).open(
            "/v1/collections/default/enroll",
            method="POST",
            data="\n".join(map(json.dumps, lines)),
            content_type="application/x-ndjson",
            headers=_key(api),
        )
        verdicts = [json.loads(line) for line in response.get_data(as_text=True).splitlines()]
        assert {one.get("code", "conflict") for one in verdicts} == {"conflict"}
        return sum(one["status"] == "accepted" for one in verdicts)

    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(batch if number % 3 == 0 else single, apis[number % 2], 100 * number)
            for number in range(30)
        ]
        accepted = sum(job.result() for job in jobs)
    view = apis[0].ok("GET", "/v1/collections/default")
    assert accepted == view["templates"] == 37
    with apis[0].services.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Template)) == 37
        assert session.scalar(select(func.count()).select_from(Person)) == view["persons"]


def _client(api):
    return api.client.application.test_client()


def _key(api):
    return {"Authorization": f"Bearer {api.keys['admin']}"}


@pytest.mark.models
@pytest.mark.backends("sqlite")
@pytest.mark.skipif("MUSTER_TEST_FACES" not in os.environ, reason="needs pictures of real people")
def test_each_preset_holds_real_pictures_to_its_own_ranges(make_services):
    services = make_services(face_engine("compact"))
    reasons: dict[str, list[str]] = {}
    pictures = sorted(Path(os.environ["MUSTER_TEST_FACES"]).glob("*/*"))[:8]
    for gate in ("off", "doorway", "passport"):
        services.collections.create(CollectionCreate(name=gate, policy=Policy(gate=gate)))
        planned = [
            picture_item(n, f"p/{n}", one.parent.name, one.read_bytes())
            for n, one in enumerate(pictures)
        ]
        verdicts = list(chain.from_iterable(services.batches.run(gate, planned, BatchQuery())))
        refused = [one for one in verdicts if one.code == "quality_refused"]
        reasons[gate] = [name for one in refused for name in one.details["reasons"]]
        assert set(reasons[gate]) <= set(GATES[gate].ranges)
    assert reasons["off"] == []
    assert len(reasons["passport"]) > len(reasons["doorway"])
