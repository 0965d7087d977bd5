"""The pages of people and of sightings: reading, searching, and rights to change."""

import re
from datetime import timedelta
from io import BytesIO
from urllib.parse import urlencode

import pytest

from shared.ids import new_id

pytestmark = pytest.mark.backends("sqlite")
both = pytest.mark.backends("sqlite", "postgresql")

HEADER = {"X-Muster-Page": "1"}
PERSONS = "/v1/collections/default/persons"
RED, DIM = (0, 0, 250), (0, 0, 20)


def _sign_in(api, role="viewer"):
    assert api.client.post("/login", data={"key": api.key(role)}).status_code == 303


def _edit(api, role="enroller", back="/people"):
    return api.client.post("/edit", data={"key": api.key(role), "next": back})


def _text(api, path, status=200, **query):
    response = api.client.get(f"{path}?{urlencode(query)}" if query else path)
    page = response.get_data(as_text=True)
    assert response.status_code == status, page
    assert response.mimetype == "text/html"
    return page


def _names(page):
    return re.findall(r'<td dir="auto"><a href="[^"]+">([^<]+)</a>', page)


def _seen(page):
    return re.findall(r'<article class="sighting"[^>]*data-decision="(\w+)"', page)


@pytest.mark.parametrize(
    "path", ["/people", "/people/default/x", "/events", "/events/x", "/edit", "/devices"]
)
def test_without_a_key_every_page_leads_to_the_login(api, path):
    assert api.client.get(path).headers["Location"] == "/login"


@both
def test_people_are_listed_searched_and_paged(api, helpers):
    for number, name in enumerate(["محمد بن عبد الله", "王小明", "Ann <b>Lee</b>", "ann lind"]):
        api.person(name, helpers.unit_vector(number))
    for number in range(60):
        api.person(f"Visitor {number}")
    _sign_in(api)
    first = _text(api, "/people")
    assert len(_names(first)) == 60
    assert "<strong>64</strong> persons" in first
    assert "<b>Lee" not in first
    assert len(_names(_text(api, "/people", page=2))) == 4
    assert _names(_text(api, "/people", q="ANN")) == ["Ann &lt;b&gt;Lee&lt;/b&gt;", "ann lind"]
    assert _names(_text(api, "/people", q="小")) == ["王小明"]
    assert "contains “nobody”" in _text(api, "/people", q="nobody")


def test_who_has_no_face_or_has_expired_is_marked(api, helpers):
    api.person("Faceless")
    api.person("Gone", helpers.unit_vector(1), expires_at="2020-01-01T00:00:00Z")
    _sign_in(api)
    page = _text(api, "/people")
    assert re.search(r"Faceless</a>\s*<span class=\"flag\">no face yet", page)
    assert re.search(r"Gone</a>\s*<span class=\"flag\">expired", page)


def test_a_viewer_sees_a_person_but_no_photos_and_nothing_to_change(api, helpers):
    ann = api.person("Ann")
    photo = {"image": (BytesIO(helpers.paint((RED, 100))), "ann.png"), "store": "1"}
    api.ok("POST", f"{PERSONS}/{ann}/images", data=photo)
    _sign_in(api, "admin")
    for page in (_text(api, "/people"), _text(api, f"/people/default/{ann}")):
        assert "Ann" in page
        assert "/v1/images/" not in page
        assert not re.search(r"<form class=\"(enroll|change)", page)
        assert "people.js" not in page


def test_an_enroller_sees_photos_and_changes_people_for_as_long_as_the_key_is_good(api, helpers):
    ann = api.person("Ann")
    photo = {"image": (BytesIO(helpers.paint((RED, 100))), "ann.png"), "store": "1"}
    api.ok("POST", f"{PERSONS}/{ann}/images", data=photo)
    _sign_in(api)
    answer = _edit(api, back=f"/people/default/{ann}")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/people/default/{ann}")
    for flag in ("HttpOnly", "SameSite=Strict", "Max-Age=3600"):
        assert flag in answer.headers["Set-Cookie"]
    assert api.key("enroller").split("_", 2)[2] not in answer.headers["Set-Cookie"]
    page = _text(api, f"/people/default/{ann}")
    url = re.search(r'src="(/v1/images/[^"]+)"', page)[1]
    assert api.client.get(url).status_code == 200
    renamed = api.client.patch(f"{PERSONS}/{ann}", json={"name": "Anna"}, headers=HEADER)
    assert renamed.get_json()["name"] == "Anna"
    more = {"image": (BytesIO(helpers.paint((DIM, 100))), "dark.png")}
    refused = api.client.post(f"{PERSONS}/{ann}/images", data=more, headers=HEADER)
    assert refused.get_json()["details"]["reasons"] == ["brightness"]
    entry = api.ok("GET", f"/v1/audit?person={ann}&action=person_updated")["items"][0]
    assert entry["actor"] == f"key {api.key('enroller').split('_')[1]}"
    assert entry["role"] == "enroller"
    api.ok("DELETE", f"/v1/keys/{api.key('enroller').split('_')[1]}")
    assert api.client.delete(f"{PERSONS}/{ann}", headers=HEADER).status_code == 401
    assert api.client.get(url).status_code == 401
    assert "/v1/images/" not in _text(api, f"/people/default/{ann}")


def test_a_write_of_another_site_lacks_what_only_our_pages_can_send(api):
    ann = api.person("Ann")
    _sign_in(api)
    _edit(api)
    assert api.client.delete(f"{PERSONS}/{ann}").status_code == 401
    preflight = api.client.options(
        f"{PERSONS}/{ann}",
        headers={
            "Origin": "http://evil.example",
            "Access-Control-Request-Headers": "x-muster-page",
        },
    )
    assert "Access-Control" not in str(preflight.headers)
    assert api.client.delete(f"{PERSONS}/{ann}", headers=HEADER).status_code == 200


def test_editing_is_an_enrollers_work_whatever_the_key_may(api):
    _sign_in(api)
    _edit(api, "admin")
    assert api.client.post(PERSONS, json={"name": "Bo"}, headers=HEADER).status_code == 201
    for method, path in (
        ("POST", "/v1/collections"),
        ("DELETE", "/v1/collections/default"),
        ("POST", "/v1/keys"),
        ("POST", "/v1/devices"),
    ):
        answer = api.client.open(path, method=method, json={"name": "x"}, headers=HEADER)
        assert answer.status_code == 403, path
    assert api.client.get("/v1/keys", headers=HEADER).status_code == 401


@pytest.mark.parametrize("role", ["viewer", "searcher", "device"])
def test_a_key_that_may_not_enroll_cannot_edit(api, role):
    _sign_in(api)
    answer = _edit(api, role)
    assert answer.status_code == 403
    assert "one of role &#39;enroller&#39; may" in answer.get_data(as_text=True)
    assert "Set-Cookie" not in answer.headers


def test_the_hour_of_editing_ends(api, monkeypatch):
    _sign_in(api)
    _edit(api)
    assert '<form class="enroll"' in _text(api, "/people")
    monkeypatch.setattr("match_server.api.auth.EDITING_S", -1)
    assert '<form class="enroll"' not in _text(api, "/people")
    assert api.client.post(PERSONS, json={"name": "Bo"}, headers=HEADER).status_code == 401


def test_who_stops_editing_or_signs_out_edits_no_more(api):
    for leave in ("/edit/stop", "/logout"):
        _sign_in(api)
        _edit(api)
        assert api.client.post(leave).status_code == 303
        assert api.client.post(PERSONS, json={"name": "Bo"}, headers=HEADER).status_code == 401


def test_the_cookie_of_watching_is_none_of_editing(api):
    _sign_in(api, "admin")
    watching = api.client.get_cookie("muster_session").value
    api.client.set_cookie("muster_editing", watching)
    assert api.client.post(PERSONS, json={"name": "Bo"}, headers=HEADER).status_code == 401


@pytest.mark.parametrize("back", ["https://evil.example", "//evil.example", "/people\r\nX: y", ""])
def test_editing_leads_back_to_these_pages_only(api, back):
    _sign_in(api)
    assert _edit(api, back=back).headers["Location"] == "/people"


def _sightings(api, helpers):
    """Sends sightings of Ann (two), Anna and a stranger, an hour apart; returns the last id."""
    vectors = {name: helpers.unit_vector(seed) for seed, name in enumerate(("Ann", "Anna"))}
    for name, vector in vectors.items():
        api.person(name, vector)
    seen = [vectors["Ann"], vectors["Anna"], vectors["Ann"], helpers.unit_vector(9)]
    for number, vector in enumerate(seen, start=1):
        camera = "front" if number % 2 else "yard"
        (last,) = api.send(api.probe(vector, sequence=number, camera=camera))
        api.clock.advance(3600)
    return last["event"]["id"]


@both
def test_sightings_are_found_by_camera_decision_and_time(api, helpers):
    start = api.clock.now()
    _sightings(api, helpers)
    _sign_in(api)
    assert _seen(_text(api, "/events")) == ["unknown", *["identified"] * 3]
    assert _seen(_text(api, "/events", camera="front")) == ["identified"] * 2
    assert _seen(_text(api, "/events", decision="unknown", camera="", who="")) == ["unknown"]
    since = start + timedelta(minutes=90)
    without_script = f"{since:%Y-%m-%dT%H:%M}"
    assert len(_seen(_text(api, "/events", since=without_script))) == 2
    assert len(_seen(_text(api, "/events", until=since.isoformat()))) == 2
    assert "No sighting matches" in _text(api, "/events", camera="cellar")


@both
def test_a_sighting_is_found_by_a_name_and_two_who_share_it_are_told_apart(api, helpers):
    _sightings(api, helpers)
    _sign_in(api)
    anna = _text(api, "/events", who="anna")
    assert _seen(anna) == ["identified"]
    assert "Sightings of <bdi>Anna</bdi>" in anna
    assert len(_seen(_text(api, "/events", who="ANN"))) == 2, "exactly that name comes before parts"
    api.person("Ann")
    which = _text(api, "/events", who="ann", camera="front")
    assert "Which person?" in which
    assert not _seen(which)
    link = re.findall(r'href="(/events\?[^"]+)">Ann</a>', which)[0].replace("&amp;", "&")
    assert len(_seen(_text(api, link))) == 2
    assert "No enrolled name contains “zoë”" in _text(api, "/events", who="zoë")


@both
def test_long_lists_of_sightings_have_pages_that_keep_the_filter(api, helpers):
    probes = [api.probe(helpers.unit_vector(n), sequence=n) for n in range(1, 66)]
    api.send(*probes)
    _sign_in(api)
    page = _text(api, "/events", decision="unknown", camera="front")
    assert len(_seen(page)) == 60
    older = re.search(r'href="(\?[^"]+)" rel="next"', page)[1].replace("&amp;", "&")
    assert len(_seen(_text(api, f"/events{older}"))) == 5
    assert "decision=unknown" in older


def test_one_sighting_shows_why_and_who_else_it_might_be(api, helpers):
    ann = helpers.unit_vector(1)
    api.person("Ann", ann)
    probe = api.probe(helpers.unit_vector(2, near=ann, similarity=0.3))
    factor = {"name": "yaw", "value": 60.0, "low": -45.0, "high": 45.0, "passed": False}
    probe["quality"] = {"score": 0.3, "factors": [factor]}
    (sent,) = api.send(probe)
    _sign_in(api)
    path = f"/events/{sent['event']['id']}"
    page = _text(api, path)
    for shown in (
        "Unknown",
        "0.300",
        "threshold 0.350",
        "turned away",
        "Ann",
        "front of box door-1",
    ):
        assert shown in page, shown
    assert "may edit people</a>" in page
    _edit(api, back=path)
    assert f'data-snapshot="{sent["event"]["snapshot"]}"' in _text(api, path)


def test_what_is_not_there_or_cannot_be_read_is_said_on_a_page(api):
    _sign_in(api)
    assert "There is no event" in _text(api, "/events/x", 404)
    assert "There is no person" in _text(api, "/people/default/x", 404)
    assert "There is no collection" in _text(api, "/people", 404, collection="x")
    assert "is no time like" in _text(api, "/events", 400, since="yesterday")
    assert "Decision" in _text(api, "/events", 400, decision="perhaps")


def test_these_pages_run_no_inline_code_and_load_nothing_from_elsewhere(api, helpers):
    event = _sightings(api, helpers)
    ann = api.ok("GET", f"{PERSONS}?q=Anna")["items"][0]["id"]
    _sign_in(api)
    _edit(api)
    for path in ("/people", f"/people/default/{ann}", "/events", f"/events/{event}", "/edit"):
        page = _text(api, path)
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', page)
        assert not re.search(r"<script(?![^>]*src=)", page)
        assert " style=" not in page
        assert not re.search(r"\son\w+=", page)
        assert page.count("<h1") == 1


def test_two_persons_of_one_id_in_two_collections_are_kept_apart_everywhere(api, helpers):
    api.ok("POST", "/v1/collections", json={"name": "staff"})
    api.ok("POST", "/v1/devices", json={"name": "door-1"})
    vectors = {"default": helpers.unit_vector(1), "staff": helpers.unit_vector(2)}
    events, names = {}, {"default": "Ann", "staff": "Bob"}
    for collection, vector in vectors.items():
        persons = f"/v1/collections/{collection}/persons"
        api.ok("POST", persons, json={"name": names[collection], "id": "4711"})
        template = {"template": helpers.encode(vector), "model_id": helpers.MODEL}
        api.ok("POST", f"{persons}/4711/templates", json=template)
        track = {"device": "door-1", "camera": "front", "track_id": new_id(), "state": "began"}
        now = api.clock.now().isoformat()
        track |= {"at": now, "began_at": now, "in_view": 1, "probes": 0}
        api.ok("POST", "/v1/tracks", "device", json=track)
        api.ok("PATCH", "/v1/devices/door-1", json={"collection": collection})
        (result,) = api.send(api.probe(vector, track_id=track["track_id"]))
        events[collection] = result["event"]["id"]

    def listed(path, collection):
        sightings = api.ok("GET", f"{path}?person=4711&collection={collection}")["items"]
        assert sightings
        return sightings

    (camera,) = api.ok("GET", "/v1/presence")["items"]
    assert sorted(one["name"] for one in camera["persons"]) == ["Ann", "Bob"]
    _sign_in(api)
    for collection, other in (("default", "staff"), ("staff", "default")):
        assert [one["id"] for one in listed("/v1/events", collection)] == [events[collection]]
        page = _text(api, f"/people/{collection}/4711")
        assert events[collection] in page
        assert events[other] not in page
        assert f"collection={collection}" in page
        page = _text(api, "/events", person="4711", collection=collection)
        assert events[collection] in page
        assert events[other] not in page
        assert names[other] not in page
    for collection in vectors:
        api.ok("DELETE", f"/v1/collections/{collection}/persons/4711")
    api.services.erasures.settle()
    for number, collection in enumerate(vectors, start=1):
        (erasure,) = listed("/v1/erasures", collection)
        assert erasure["certificate"]["collection_number"] == number
        entries = listed("/v1/audit", collection)
        assert {one["collection"] or one["subject"] for one in entries} == {collection}
        assert "erasure_completed" in {one["action"] for one in entries}
