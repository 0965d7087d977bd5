"""The live page and the login: guarded by a key, safe against other sites."""

import json
import re

import pytest

from shared.clock import rfc3339
from shared.ids import new_id

pytestmark = pytest.mark.backends("sqlite")


def _login(api, role="viewer"):
    return api.client.post("/login", data={"key": api.key(role)})


def test_without_a_key_the_page_leads_to_the_login(api):
    response = api.client.get("/")
    assert response.status_code == 302
    assert response.headers["Location"] == "/login"
    assert api.client.get("/login").status_code == 200


def test_a_viewer_signs_in_and_sees_names_and_numbers(api, helpers):
    api.person("Ann <script>alert(1)</script>", helpers.unit_vector(1))
    api.send(api.probe(helpers.unit_vector(1)), api.probe(helpers.unit_vector(2), sequence=2))
    assert _login(api).status_code == 303
    page = api.client.get("/").get_data(as_text=True)
    assert "<script>alert" not in page
    assert "Ann &lt;script&gt;" in page
    assert "Unknown" in page
    initial = re.search(r'id="initial">(.*?)</script>', page, re.DOTALL)[1]
    assert len(json.loads(initial)) == 2
    event = json.loads(initial)[0]
    for path in ("/v1/events", event["snapshot"], "/v1/collections/default/persons"):
        assert api.client.get(path).status_code == 200


def test_the_cookie_is_for_reading_only_whatever_the_key_may(api):
    _login(api, "admin")
    assert api.client.get("/").status_code == 200
    assert api.client.post("/v1/collections", json={"name": "x"}).status_code == 401
    assert api.client.get("/v1/keys").status_code == 401
    assert api.client.delete("/v1/collections/default").status_code == 401


def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites_and_holds_no_key(api):
    cookie = _login(api).headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert api.key("viewer").split("_", 2)[2] not in cookie


@pytest.mark.parametrize("role", ["device", "enroller"])
def test_a_key_that_may_not_watch_cannot_sign_in(api, role):
    response = _login(api, role)
    assert response.status_code == 403
    assert "Set-Cookie" not in response.headers


def test_a_wrong_key_and_a_forged_cookie_do_not_open_the_page(api):
    response = api.client.post("/login", data={"key": "muster_0_x"})
    assert response.status_code == 401
    assert "This key is unknown" in response.get_data(as_text=True)
    api.client.set_cookie("muster_session", "forged.by.me")
    assert api.client.get("/").status_code == 302


def test_revoking_the_key_ends_the_session(api):
    _login(api)
    key_id = api.key("viewer").split("_")[1]
    api.ok("DELETE", f"/v1/keys/{key_id}")
    assert api.client.get("/").status_code == 302
    assert api.client.get("/v1/events").status_code == 401


def test_signing_out_ends_the_session(api):
    _login(api)
    assert api.client.post("/logout").status_code == 303
    assert api.client.get("/").status_code == 302


def _copied(api, *names):
    """Returns a browser with copies of these cookies."""
    thief = api.client.application.test_client()
    for name in names:
        thief.set_cookie(name, api.client.get_cookie(name).value)
    return thief


def test_a_copied_cookie_is_worth_nothing_after_signing_out(api, helpers):
    _login(api)
    api.client.post("/edit", data={"key": api.key("enroller")})
    thief = _copied(api, "muster_session", "muster_editing")
    other = api.client.application.test_client()  # of the same key, somewhere else
    other.post("/login", data={"key": api.key("viewer")})
    body, header = {"name": "Bo"}, {"X-Muster-Page": "people"}
    path = "/v1/collections/default/persons"
    assert thief.get("/").status_code == 200
    assert thief.post(path, json=body, headers=header).status_code == 201
    stream = thief.get("/v1/events/stream", buffered=False)
    pieces = iter(stream.response)
    next(pieces)
    api.client.post("/logout")
    assert thief.get("/").status_code == 302
    assert thief.post(path, json=body, headers=header).status_code == 401
    api.send(api.probe(helpers.unit_vector(1)))
    assert list(pieces) == []
    stream.close()
    assert other.get("/").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:8481"},
        {"Origin": "null"},
    ],
    ids=lambda one: " ".join(*one.items()),
)
def test_a_page_of_another_site_signs_nobody_in_or_out(api, headers):
    data = {"key": api.key("viewer")}
    assert api.client.post("/login", data=data, headers=headers).status_code == 403
    _login(api)
    assert api.client.post("/logout", headers=headers).status_code == 403
    assert api.client.get("/").status_code == 200


def test_our_own_forms_are_taken_however_the_browser_names_us(make_api):
    api = make_api(public_url="https://muster.example")
    data = {"key": api.key("viewer")}
    for headers in (
        {"Origin": "http://localhost"},
        {"Origin": "https://muster.example"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
        {},
    ):
        assert api.client.post("/login", data=data, headers=headers).status_code == 303, headers


def test_every_page_forbids_foreign_content_and_framing(api):
    for path in ("/login", "/docs", "/static/page.js"):
        with api.client.get(path) as response:
            headers = response.headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_pages_load_nothing_from_elsewhere(api, helpers):
    api.send(api.probe(helpers.unit_vector(1)))
    _login(api)
    for path in ("/", "/login", "/docs"):
        page = api.client.get(path).get_data(as_text=True)
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', page)
        assert not re.search(r"<script(?![^>]*(?:src=|application/json))", page)
        assert " style=" not in page
        assert not re.search(r"\son\w+=", page)


def test_the_documentation_names_every_call(api):
    page = api.client.get("/docs").get_data(as_text=True)
    for path in api.ok("GET", "/openapi.json", None)["paths"]:
        assert path in page


def test_an_open_page_is_open_to_this_machine_by_its_own_name_alone(make_api):
    api = make_api(open_page=True)
    assert api.client.get("/").status_code == 200
    assert api.client.get("/v1/events").status_code == 200
    assert api.client.get("/v1/keys").status_code == 401
    assert api.client.post("/v1/probes", json=[]).status_code == 401
    elsewhere = {"REMOTE_ADDR": "192.168.0.9"}
    assert api.client.get("/", environ_overrides=elsewhere).status_code == 302
    assert api.client.get("/", headers={"Host": "evil.example"}).status_code == 302
    assert api.client.get("/v1/events", headers={"Host": "evil.example"}).status_code == 401


def test_a_page_is_never_open_on_an_address_that_others_reach(settings):
    from match_server.process.preflight import require_loopback_for_open_page
    from shared.errors import ConfigurationError

    for host in ("0.0.0.0", "::", "192.168.0.9", "example.org"):
        with pytest.raises(ConfigurationError, match="open_page"):
            require_loopback_for_open_page(
                settings.model_copy(update={"open_page": True, "host": host})
            )
    for host in ("127.0.0.1", "::1", "localhost"):
        require_loopback_for_open_page(
            settings.model_copy(update={"open_page": True, "host": host})
        )


def test_the_page_knows_cameras_that_saw_nobody_lately(api):
    track = {
        "schema_version": 1,
        "device": "door-1",
        "camera": "yard",
        "track_id": new_id(),
        "state": "began",
        "at": api.clock.now().isoformat(),
        "began_at": api.clock.now().isoformat(),
        "probes": 0,
        "in_view": 1,
    }
    api.ok("POST", "/v1/devices", json={"name": "door-1"})
    api.ok("POST", "/v1/tracks", "device", json=track)
    _login(api)
    page = api.client.get("/").get_data(as_text=True)
    presence = re.search(r'id="presence">(.*?)</script>', page, re.DOTALL)[1]
    standing = api.client.get("/standing.json").get_json()
    assert standing == json.loads(presence)
    assert [one["camera"] for one in standing["items"]] == ["yard"]
    api.client.post("/logout")
    assert api.client.get("/standing.json").status_code == 401


def test_the_page_counts_as_enrolled_who_can_be_found(api, helpers):
    api.person("Ann", helpers.unit_vector(1))
    api.person("Without a picture")
    api.person("Expired", helpers.unit_vector(2), expires_at=rfc3339(api.clock.now()))
    _login(api)
    page = api.client.get("/").get_data(as_text=True)
    assert re.search(r'id="persons">(\d+)<', page)[1] == "1"
