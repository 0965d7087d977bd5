"""Requests need a valid key, and the key of a device gives no access to another device."""

import json
import re

import pytest

from match_server.schemas.devices import ConfigPut
from match_server.schemas.feed import GalleriesPut
from match_server.schemas.keys import KeyCreate
from shared.ids import new_id


@pytest.fixture
def guarded(api):
    """All operations of the OpenAPI document that need a key."""
    document = api.ok("GET", "/openapi.json", None)
    return [
        (method.upper(), re.sub(r"\{\w+\}", "x", path))
        for path, calls in document["paths"].items()
        for method, call in calls.items()
        if call["security"]
    ]


def _header(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.backends("sqlite")
def test_every_guarded_call_refuses_who_has_no_valid_key(make_api, guarded, clock):
    api = make_api(bad_keys_per_minute=0)
    keys = api.services.keys
    expired = keys.create(KeyCreate(role="admin", expires_at=clock.now().replace(hour=13))).key
    revoked = keys.create(KeyCreate(role="admin"))
    keys.revoke(revoked.id)
    good = keys.create(KeyCreate(role="admin")).key
    clock.advance(2 * 3600)
    refused = {
        "none": {},
        "no scheme": {"Authorization": good},
        "another scheme": {"Authorization": f"Basic {good}"},
        "unknown": _header("muster_000000000000_" + "A" * 43),
        "cut": _header(good[:-1]),
        "longer": _header(good + "A"),
        "id alone": _header(good.rpartition("_")[0] + "_"),
        "expired": _header(expired),
        "revoked": _header(revoked.key),
    }
    assert len(guarded) > 60
    for method, path in guarded:
        for how, headers in refused.items():
            response = api.call(method, path, None, headers=headers)
            assert response.status_code == 401, (how, method, path)
            assert response.get_json()["code"] == "unauthenticated"
    assert api.call("GET", "/v1/keys", None, headers=_header(good)).status_code == 200
    assert api.call("GET", f"/v1/keys?key={good}", None).status_code == 401  # never in an address


@pytest.fixture
def boxes(api, helpers):
    """Two devices: `own`, whose key is used, and `other`, which alone may hold the collection."""
    services = api.services
    services.collections.ensure("secret")
    for name in ("own", "other"):
        api.ok("POST", "/v1/devices", json={"name": name})
    services.configurations.desire("other", ConfigPut(config={"cameras": []}))
    galleries = {"galleries": [{"collection": "secret"}]}
    services.followers.put("other", GalleriesPut.model_validate(galleries))
    key = services.keys.create(KeyCreate(role="device", device="own")).key
    api.ok("POST", "/v1/collections/secret/persons", json={"name": "Hidden", "id": "h1"})

    def call(method, path, **arguments):
        return api.call(method, path, None, headers=_header(key), **arguments)

    return call


def test_a_boxs_key_reaches_nothing_of_another_box(api, boxes, helpers):
    now = api.clock.now().isoformat()
    other = api.probe(helpers.unit_vector(1), device="other")
    track = {
        "schema_version": 1, "device": "other", "camera": "c", "track_id": new_id(),
        "state": "began", "began_at": now, "at": now, "in_view": 1, "probes": 0,
    }  # fmt: skip
    for method, path, body in (
        ("GET", "/v1/devices/other/config", None),
        ("PUT", "/v1/devices/other/config/reported", _report("other", now)),
        ("PUT", "/v1/devices/other/config", {"config": {}}),
        ("PUT", "/v1/devices/own/config", {"config": {}}),
        ("PUT", "/v1/devices/own/galleries", {"galleries": [{"collection": "secret"}]}),
        ("POST", "/v1/devices/own/codes", None),
        ("POST", "/v1/devices/other/health", _health("other", now)),
        ("POST", "/v1/probes", other),
        ("POST", "/v1/probes", [api.probe(helpers.unit_vector(1), device="own"), other]),
        ("POST", "/v1/tracks", track),
        ("GET", "/v1/changes?collection=secret&since=0", None),
        ("GET", "/v1/changes?collection=secret&since=0&device=other", None),
        ("GET", "/v1/snapshot?collection=secret", None),
        ("GET", "/v1/snapshot?collection=secret&device=other", None),
        ("GET", "/v1/events", None),
        ("GET", "/v1/devices", None),
        ("GET", "/v1/devices/own", None),
        ("GET", "/v1/followers", None),
    ):
        response = boxes(method, path, json=body)
        assert response.status_code == 403, (method, path, response.get_data(as_text=True))
    for method, path, body in (  # and no other message under its own address
        ("PUT", "/v1/devices/own/config/reported", _report("other", now)),
        ("POST", "/v1/devices/own/health", _health("other", now)),
    ):
        assert boxes(method, path, json=body).status_code == 400
    assert api.ok("GET", "/v1/events")["total"] == 0
    assert boxes("GET", "/v1/devices/own/config").status_code == 200


def _report(device, at):
    return {
        "schema_version": 1, "device": device, "revision": 0, "state": "applied", "tried": 0,
        "config": {}, "at": at,
    }  # fmt: skip


def _health(device, at):
    return {
        "schema_version": 1, "device": device, "at": at, "uptime_s": 1.0, "version": "1",
        "model_id": "m", "waiting": 0, "dropped": 0, "processors": 1, "memory_bytes": 1,
    }  # fmt: skip


def test_a_box_that_sends_the_probe_id_of_another_learns_nothing_of_its_sighting(
    api, boxes, helpers
):
    vector = helpers.unit_vector(1)
    api.person("Ann", vector)
    others = api.probe(vector, device="other")
    (kept,) = api.send(others)
    assert kept["event"]["person"]["name"] == "Ann"
    mine = {**api.probe(helpers.unit_vector(2), device="own"), "probe_id": others["probe_id"]}
    (answer,) = boxes("POST", "/v1/probes", json=mine).get_json()["probes"]
    assert (answer["status"], answer["code"], answer["event"]) == ("refused", "conflict", None)
    assert api.send(others)[0]["status"] == "duplicate"


def test_a_box_cannot_ask_for_names_of_a_gallery_that_it_was_not_given(api, boxes, helpers):
    local = {
        "collection": "secret", "decision": "identified", "person": "h1", "similarity": 0.9,
        "seq": 1,
    }  # fmt: skip
    probe = api.probe(helpers.unit_vector(1), device="own", local=local)
    response = boxes("POST", "/v1/probes", json=probe)
    (answer,) = response.get_json()["probes"]
    assert answer["status"] == "accepted", answer
    assert answer["event"]["local"]["person"] is None
    assert "Hidden" not in json.dumps(api.ok("GET", "/v1/events"))
    (allowed,) = api.send({**probe, "probe_id": new_id(), "track_id": new_id(), "device": "other"})
    assert allowed["event"]["local"]["person"]["name"] == "Hidden"
