"""API keys: stored as hashes, shown once, invalid after revocation; permissions of roles."""

import base64
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from match_server.db.tables import ApiKey
from match_server.schemas.keys import KeyCreate
from shared.clock import rfc3339

CALLS = {
    "administer": [
        ("POST", "/v1/collections"),
        ("PATCH", "/v1/collections/default"),
        ("DELETE", "/v1/collections/nobody"),
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys"),
        ("DELETE", "/v1/keys/nobody"),
        ("POST", "/v1/storages"),
        ("DELETE", "/v1/storages/x"),
        ("POST", "/v1/devices"),
        ("PATCH", "/v1/devices/x"),
        ("DELETE", "/v1/devices/x"),
        ("POST", "/v1/devices/x/codes"),
        ("PUT", "/v1/devices/x/config"),
        ("PUT", "/v1/devices/x/galleries"),
        ("GET", "/v1/followers"),
        ("PUT", "/v1/collections/default/calibration"),
        ("DELETE", "/v1/collections/default/calibration"),
        ("POST", "/v1/webhooks"),
        ("GET", "/v1/webhooks"),
        ("GET", "/v1/webhooks/x"),
        ("DELETE", "/v1/webhooks/x"),
        ("POST", "/v1/webhooks/x/enable"),
        ("GET", "/v1/webhooks/x/dead"),
        ("POST", "/v1/webhooks/x/resend"),
        ("GET", "/v1/audit"),
        ("GET", "/v1/audit/anchor"),
    ],
    "enroll": [
        ("POST", "/v1/collections/default/persons"),
        ("PATCH", "/v1/collections/default/persons/x"),
        ("DELETE", "/v1/collections/default/persons/x"),
        ("POST", "/v1/collections/default/persons/x/images"),
        ("POST", "/v1/collections/default/persons/x/templates"),
        ("DELETE", "/v1/images/x"),
        ("DELETE", "/v1/templates/x"),
        ("POST", "/v1/collections/default/enroll"),
        ("POST", "/v1/groups"),
        ("PATCH", "/v1/groups/x"),
        ("DELETE", "/v1/groups/x"),
        ("PUT", "/v1/groups/x/persons"),
        ("GET", "/v1/storages"),
        ("GET", "/v1/erasures"),
        ("GET", "/v1/erasures/x"),
        ("POST", "/v1/events/x/decision"),
        ("DELETE", "/v1/events/x/decision"),
    ],
    "references": [
        ("GET", "/v1/collections/default/persons/x/images"),
        ("GET", "/v1/collections/default/persons/x/templates"),
        ("GET", "/v1/images/x"),
        ("GET", "/v1/images/x/content"),
        ("GET", "/v1/templates/x"),
    ],
    "search": [
        ("POST", "/v1/detect"),
        ("POST", "/v1/embed"),
        ("POST", "/v1/collections/default/search"),
        ("POST", "/v1/search"),
        ("POST", "/v1/verify"),
    ],
    "read": [
        ("GET", "/v1/collections"),
        ("GET", "/v1/collections/default"),
        ("GET", "/v1/collections/default/persons"),
        ("GET", "/v1/collections/default/persons/x"),
        ("GET", "/v1/groups"),
        ("GET", "/v1/groups/x"),
        ("GET", "/v1/collections/default/calibration"),
        ("GET", "/v1/collections/default/calibrations"),
    ],
    "events": [
        ("GET", "/v1/events"),
        ("GET", "/v1/events/x"),
        ("GET", "/v1/events/x/decision"),
        ("GET", "/v1/events/x/snapshot"),
        ("GET", "/v1/events/stream"),
        ("GET", "/v1/presence"),
        ("GET", "/v1/devices"),
        ("GET", "/v1/devices/x"),
        ("GET", "/v1/devices/x/ledger"),
    ],
    "probes": [
        ("POST", "/v1/probes"),
        ("POST", "/v1/tracks"),
        ("POST", "/v1/devices/x/health"),
        ("GET", "/v1/devices/x/config"),
        ("PUT", "/v1/devices/x/config/reported"),
    ],
    "follow": [("GET", "/v1/changes"), ("GET", "/v1/snapshot")],
}
ROLES = {
    "admin": set(CALLS),
    "enroller": {"enroll", "read", "references"},
    "searcher": {"search", "read", "references", "events"},
    "device": {"probes", "follow"},
    "viewer": {"read", "events"},
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_the_contract_says_and_nothing_else(api, role):
    for permission, calls in CALLS.items():
        for method, path in calls:
            caller = "device:x" if role == "device" else role
            response = api.call(method, path, caller, buffered=False)
            allowed = response.status_code != 403
            response.close()
            assert allowed == (permission in ROLES[role]), (role, method, path)


def test_the_table_above_names_every_guarded_call(api):
    rules = {
        (method, rule.rule)
        for rule in api.client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD"}
        if rule.rule.startswith("/v1/") and rule.rule != "/v1/devices/enroll"  # its code is its key
    }
    assert len(rules) == sum(len(calls) for calls in CALLS.values())


def test_every_call_under_v1_needs_a_key(api):
    for calls in CALLS.values():
        for method, path in calls:
            body = api.refused(401, method, path, None)
            assert body["code"] == "unauthenticated"


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    "header",
    [
        "Bearer ",
        "Bearer x",
        "Bearer muster_0_x",
        "Bearer muster_%_x",
        "Basic YTpi",
        "Bearer " + "a" * 5000,
        "Bearer muster_\u00e9_x",
    ],
)
def test_a_header_that_is_no_key_is_refused(api, header):
    api.refused(401, "GET", "/v1/collections", None, headers={"Authorization": header})


def test_a_wrong_secret_behind_a_right_id_is_refused(api):
    key = api.key("admin")
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    api.refused(401, "GET", "/v1/collections", None, headers={"Authorization": f"Bearer {wrong}"})


def test_a_key_is_shown_once_and_kept_as_a_hash(api):
    made = api.ok("POST", "/v1/keys", json={"role": "viewer", "name": "wall"})
    listed = api.ok("GET", "/v1/keys")
    assert made["key"] not in str(listed)
    assert all("key" not in one for one in listed["items"])
    with api.services.database.read() as session:
        row = session.scalars(select(ApiKey).where(ApiKey.id == made["id"])).one()
    assert len(row.sha256) == 32
    secret = made["key"].split("_", 2)[2]
    assert len(base64.urlsafe_b64decode(secret + "=")) == 32
    api.services.close()
    for file in api.services.settings.data_dir.iterdir():
        assert secret.encode() not in file.read_bytes()


def test_a_revoked_key_is_worth_nothing_from_the_next_request_on(api):
    made = api.ok("POST", "/v1/keys", json={"role": "admin", "name": "x"})
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert api.call("GET", "/v1/keys", None, headers=headers).status_code == 200
    assert api.ok("DELETE", f"/v1/keys/{made['id']}")["revoked_at"] is not None
    api.refused(401, "GET", "/v1/keys", None, headers=headers)


def test_an_expired_key_is_worth_nothing(api, clock):
    expires_at = rfc3339(clock.now() + timedelta(days=1))
    body = {"role": "admin", "name": "x", "expires_at": expires_at}
    made = api.ok("POST", "/v1/keys", json=body)
    assert made["expires_at"] == expires_at
    headers = {"Authorization": f"Bearer {made['key']}"}
    clock.advance(24 * 3600 - 1)
    assert api.call("GET", "/v1/keys", None, headers=headers).status_code == 200
    clock.advance(1)
    assert "expired" in api.refused(401, "GET", "/v1/keys", None, headers=headers)["message"]


def test_an_expired_key_no_longer_watches_the_page(api, clock):
    body = {"role": "viewer", "expires_at": rfc3339(clock.now() + timedelta(hours=1))}
    made = api.ok("POST", "/v1/keys", json=body)
    assert api.client.post("/login", data={"key": made["key"]}).status_code == 303
    assert api.client.get("/").status_code == 200
    clock.advance(3600)
    assert api.client.get("/").status_code == 302


def test_a_key_that_would_have_expired_already_is_refused(api, clock):
    body = {"role": "viewer", "expires_at": rfc3339(clock.now())}
    assert "past" in api.refused(400, "POST", "/v1/keys", json=body)["message"]


def test_with_expired_keys_alone_nobody_can_call(make_services, clock):
    services = make_services()
    request = KeyCreate(role="admin", expires_at=clock.now() + timedelta(hours=1))
    services.keys.create(request)
    assert services.keys.any_valid()
    clock.advance(3600)
    assert not services.keys.any_valid()


def test_the_key_of_a_device_speaks_for_no_other(api, helpers):
    body = {"role": "device", "device": "door-1"}
    made = api.ok("POST", "/v1/keys", json=body)["key"]
    headers = {"Authorization": f"Bearer {made}"}
    vector = helpers.unit_vector(1)
    probes = [api.probe(vector), api.probe(vector, device="door-2")]
    api.refused(403, "POST", "/v1/probes", None, json=probes, headers=headers)
    api.refused(403, "GET", "/v1/devices/door-2/config", None, headers=headers)
    assert api.call("POST", "/v1/probes", None, json=probes[:1], headers=headers).status_code == 200


def test_a_key_for_a_device_that_names_none_cannot_be_made(api):
    refused = api.refused(400, "POST", "/v1/keys", json={"role": "device", "name": "any"})
    assert "speaks for one device" in refused["message"]
    assert all(one["role"] != "device" for one in api.ok("GET", "/v1/keys")["items"])


def test_one_that_was_made_before_is_refused_with_what_to_do(api, helpers):
    made = api.ok("POST", "/v1/keys", json={"role": "device", "device": "door-1"})
    with api.services.database.write() as session:
        session.execute(update(ApiKey).where(ApiKey.id == made["id"]).values(device=None))
    headers = {"Authorization": f"Bearer {made['key']}"}
    report = {
        "device": "door-1",
        "revision": 0,
        "state": "applied",
        "tried": 0,
        "config": {},
        "at": rfc3339(api.clock.now()),
    }
    for method, path, body in (
        ("GET", "/v1/devices/door-1/config", None),  # with the passwords of its cameras
        ("PUT", "/v1/devices/door-1/config/reported", report),
        ("POST", "/v1/probes", api.probe(helpers.unit_vector(1))),
        ("GET", "/v1/snapshot?collection=default&device=door-1", None),
    ):
        refused = api.refused(403, method, path, None, headers=headers, json=body)
        assert "key create --role device --device NAME" in refused["message"]


def test_nothing_that_a_viewer_may_read_holds_a_template(api, helpers):
    vector = helpers.unit_vector(1)
    person = api.person("Ann", vector)
    api.send(api.probe(vector))
    collection = "/v1/collections/default"
    answers = [
        api.call("GET", path, "viewer").get_data()
        for path in (f"{collection}/persons", f"{collection}/persons/{person}", "/v1/events")
    ]
    for answer in answers:
        assert b"Ann" in answer
        assert helpers.encode(vector)[:40].encode() not in answer
    for path in (
        f"{collection}/persons/{person}/templates",
        f"{collection}/persons/{person}/images",
    ):
        api.refused(403, "GET", path, "viewer")


def test_a_key_in_the_address_is_no_key(api):
    key = api.key("admin")
    api.refused(401, "GET", f"/v1/collections?key={key}", None)


def test_nothing_that_is_secret_reaches_the_log(api, helpers, caplog):
    caplog.set_level("DEBUG")
    vector = helpers.unit_vector(1)
    person = api.person("Very-Rare-Name", vector, id="rare-id")
    api.search(vector)
    api.send(api.probe(vector))
    api.call("GET", "/v1/collections", None, headers={"Authorization": "Bearer muster_0_wrong"})
    api.call("POST", "/v1/collections/default/persons", json={"name": 5, "external_id": "Odd"})
    api.ok("DELETE", f"/v1/collections/default/persons/{person}")
    text = "\n".join(str(vars(record)) for record in caplog.records)
    assert len(caplog.records) >= 6
    for secret in (*api.keys.values(), "wrong", "Very-Rare-Name", "rare-id", "Odd"):
        assert secret not in text
    assert helpers.encode(vector)[:40] not in text
