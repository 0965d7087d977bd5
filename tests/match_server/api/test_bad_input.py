"""Invalid input: a 4xx with a helpful message, and nothing is changed."""

import base64
import io
import json

import pytest

from match_server.mqtt.intake import read_probe
from shared.wire.topics import DeviceTopics

pytestmark = pytest.mark.backends("sqlite")

PERSONS = "/v1/collections/default/persons"
SEARCH = "/v1/collections/default/search"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/collections", {"name": "a/b"}),
        ("POST", "/v1/collections", {"name": "../etc"}),
        ("POST", "/v1/collections", {"name": ""}),
        ("POST", "/v1/collections", {"name": "x" * 64}),
        ("POST", "/v1/collections", {"name": 5}),
        ("POST", "/v1/collections", {"name": "x", "max_templates": 0}),
        ("POST", "/v1/collections", {"name": "x", "max_templates": "5"}),
        ("POST", "/v1/collections", {"name": "x", "policy": {"threshold": 1.5}}),
        ("POST", "/v1/collections", {"name": "x", "policy": {"treshold": 0.5}}),
        ("POST", "/v1/collections", {"name": "x", "model_id": "mine"}),
        ("POST", "/v1/collections", []),
        ("PATCH", "/v1/collections/default", {"policy": {"live_s": 0}}),
        ("POST", PERSONS, {}),
        ("POST", PERSONS, {"name": " \t"}),
        ("POST", PERSONS, {"name": "a\u0000b"}),
        ("POST", PERSONS, {"name": "x", "metadata": {"deep": [{"a\u0000": 1}]}}),
        ("POST", SEARCH, {"template_id": "a\u0000b"}),
        ("PUT", "/v1/devices/door-1/config", {"config": {"deep": [{"a\u0000": 1}]}}),
        ("POST", PERSONS, {"name": "a\u001bb"}),
        ("POST", PERSONS, {"name": "\u200b\u200b"}),
        ("POST", PERSONS, {"name": "a\u2028b"}),
        ("POST", PERSONS, {"name": "\u202egnp.exe"}),
        ("POST", PERSONS, {"name": "x" * 201}),
        ("POST", PERSONS, {"name": "x", "groups": ["a b"]}),
        ("POST", PERSONS, {"name": "x", "groups": "g"}),
        ("POST", "/v1/groups", {"collection": "default"}),
        ("POST", "/v1/groups", {"collection": "default", "name": "x", "id": "a/b"}),
        ("POST", PERSONS, {"name": "x", "id": "../x"}),
        ("POST", PERSONS, {"name": "x", "expires_at": "tomorrow"}),
        ("POST", PERSONS, {"name": "x", "expires_at": "2030-01-01T00:00:00"}),
        ("POST", PERSONS, {"name": "x", "expires_at": "9999-12-31T23:59:59-12:00"}),
        ("POST", PERSONS, {"name": "x", "expires_at": "0001-01-01T00:00:00+12:00"}),
        ("POST", PERSONS, {"name": "x", "metadata": {"long": "y" * 20_000}}),
        ("POST", PERSONS, {"name": "x", "metadata": [1]}),
        ("POST", SEARCH, {}),
        ("POST", SEARCH, {"template_id": "x", "templates": []}),
        ("POST", SEARCH, {"template_id": "x", "limit": 0}),
        ("POST", SEARCH, {"template_id": "x", "limit": 10**30}),
        ("POST", SEARCH, {"template_id": "x", "limit": 1001}),
        ("POST", SEARCH, {"template_id": "x", "threshold": "high"}),
        ("POST", SEARCH, {"template_id": "x", "min_seq": -1}),
        ("POST", SEARCH, {"image": "http://example.org/a.jpg"}),
        ("POST", SEARCH, {"image": 3}),
        ("POST", SEARCH, {"image": ""}),
        ("POST", SEARCH, {"templates": [{"vector": "not base64!", "model_id": "m"}]}),
        ("POST", "/v1/verify", {"pair": [{"template": "AAAA", "model_id": "m"}]}),
        ("POST", "/v1/verify", {"pair": [{}, {}]}),
        ("POST", "/v1/keys", {"role": "root"}),
        ("POST", "/v1/keys", {"role": "viewer", "device": "door-1"}),
    ],
)
def test_a_wrong_field_is_named(api, method, path, body):
    before = api.ok("GET", "/v1/collections")
    body_of_error = api.refused(400, method, path, json=body) if path != SEARCH else None
    if body_of_error is None:
        response = api.call(method, path, json=body)
        assert response.status_code in (400, 409)
        body_of_error = response.get_json()
    assert body_of_error["code"] in ("malformed", "model_mismatch")
    assert len(body_of_error["message"]) > 10
    assert "Error" not in body_of_error["message"]
    assert api.ok("GET", "/v1/collections") == before


@pytest.mark.parametrize("text", ["", "{", "nul", '{"name": NaN}', '{"name": "\\ud800"}', "\xff"])
def test_a_body_that_is_not_json_is_malformed(api, text):
    body = api.refused(
        400, "POST", PERSONS, data=text.encode("latin-1"), content_type="application/json"
    )
    assert body["code"] == "malformed"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused_everywhere(api, number, helpers):
    vector = ",".join([number] + ["0.1"] * 511)
    template = f'{{"vector": [{vector}], "model_id": "{helpers.MODEL}"}}'
    for path, text in (
        (PERSONS, f'{{"name": "x", "metadata": {{"a": {number}}}}}'),
        ("/v1/collections", f'{{"name": "x", "policy": {{"threshold": {number}}}}}'),
        (SEARCH, f'{{"templates": [{template}]}}'),
    ):
        api.refused(400, "POST", path, data=text, content_type="application/json")


def test_deeply_nested_json_is_refused(api):
    text = '{"name": "x", "metadata": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}"
    api.refused(400, "POST", PERSONS, data=text, content_type="application/json")


def test_json_in_a_query_or_a_form_that_is_nested_too_deep_is_refused(api, helpers):
    deep = "[" * 20_000
    api.refused(400, "GET", f"{PERSONS}?filter={deep}")
    picture = (io.BytesIO(helpers.paint()), "a.png")
    api.refused(400, "POST", SEARCH, data={"image": picture, "filter": deep})


def test_an_mqtt_message_that_is_nested_too_deep_is_refused_and_not_sent_again():
    """The broker would send it again for ever, and it would end each process that takes it."""
    result = read_probe(DeviceTopics("home", "door-1"), b"[" * 100_000)
    assert (result.status, result.probe_id, result.code) == ("refused", "", "malformed")


def test_a_body_of_another_content_type_is_unsupported(api):
    api.refused(415, "POST", PERSONS, data="name=x", content_type="text/plain")
    api.refused(415, "POST", SEARCH, data=b"\xff\xd8", content_type="image/jpeg")
    api.refused(415, "POST", PERSONS, data={"image": (io.BytesIO(b"x"), "a.png")})


@pytest.mark.parametrize("path", ["/v1/collections?pge=1", "/v1/collections/default?x=1"])
def test_an_unknown_query_parameter_is_refused(api, path):
    api.refused(400, "GET", path)


@pytest.mark.parametrize("query", ["page=0", "size=0", "size=1001", "page=x", "page=1&page=2"])
def test_an_invalid_page_is_refused(api, query):
    api.refused(400, "GET", f"/v1/collections?{query}")


@pytest.mark.parametrize(
    ("picture", "status"),
    [
        (b"", 400),
        (b"no picture at all", 415),
        (b"\xff\xd8\xff\xe0 cut off", 415),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
    ],
)
def test_bytes_that_are_not_a_picture_are_refused(api, picture, status):
    person = api.person("Ann")
    for path in ("/v1/detect", SEARCH, f"{PERSONS}/{person}/images"):
        response = api.call("POST", path, data={"image": (io.BytesIO(picture), "../../a.jpg")})
        assert response.status_code in (status, 400), path
        assert response.get_json()["code"] in ("malformed", "unsupported_media")


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(make_api, helpers):
    api = make_api(max_picture_pixels=10_000)
    picture = base64.b64encode(helpers.paint(((0, 0, 200), 80))).decode()
    assert api.refused(413, "POST", "/v1/detect", json={"image": picture})["code"] == "too_large"


@pytest.mark.parametrize("kind", ["json", "form", "chunked"])
def test_a_body_beyond_the_limit_is_refused(make_api, kind):
    api = make_api(max_body_bytes=10_000)
    large = b"x" * 20_000
    if kind == "form":
        arguments = {"data": {"image": (io.BytesIO(large), "a.png")}}
    else:
        arguments = {"data": large, "content_type": "application/json"}
    if kind == "chunked":
        arguments = {
            "input_stream": io.BytesIO(large),
            "content_type": "application/json",
            "environ_overrides": {"wsgi.input_terminated": True},
        }
    body = api.refused(413, "POST", "/v1/detect", **arguments)
    assert body["code"] == "too_large"


def test_parts_and_fields_that_come_twice_are_refused(api, helpers):
    picture = helpers.paint(((0, 0, 200), 80))
    twice = [(io.BytesIO(picture), "a.png"), (io.BytesIO(picture), "b.png")]
    api.refused(400, "POST", "/v1/detect", data={"image": twice})
    one = (io.BytesIO(picture), "a.png")
    api.refused(400, "POST", SEARCH, data={"image": one, "limit": ["1", "2"]})
    again = (io.BytesIO(picture), "a.png")
    api.refused(400, "POST", f"{SEARCH}?limit=1", data={"image": again, "limit": "2"})
    text = base64.b64encode(picture).decode()
    api.refused(400, "POST", f"{SEARCH}?limit=1", json={"image": text, "limit": 2})


def test_a_file_under_another_name_is_pointed_out(api, helpers):
    picture = (io.BytesIO(helpers.paint()), "a.png")
    assert "`image`" in api.refused(400, "POST", "/v1/detect", data={"photo": picture})["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/..%2f..%2fpage-secret/content",
        "/v1/events/..%2f..%2fmuster.db/snapshot",
        "/v1/collections/..%2f/persons",
        "/static/../views.py",
        "/static/..%2fviews.py",
    ],
)
def test_path_tricks_reach_no_file(api, path):
    response = api.call("GET", path)
    assert response.status_code in (400, 404)
    assert b"import" not in response.data


def test_a_file_name_of_a_client_is_in_no_path(api, helpers):
    person = api.person("Ann")
    picture = helpers.paint(((0, 0, 200), 80))
    response = api.call(
        "POST",
        f"{PERSONS}/{person}/images?store=1",
        data={"image": (io.BytesIO(picture), "../../../../evil.png")},
    )
    assert response.status_code == 201
    photos = api.services.settings.data_dir / "photos"
    (kept,) = [file for file in photos.rglob("*") if file.is_file()]
    assert "evil" not in str(kept)
    assert kept.stat().st_mode & 0o077 == 0


def test_an_unknown_path_and_a_wrong_method_have_the_body_of_every_error(api):
    assert api.refused(404, "GET", "/v1/nothing")["code"] == "not_found"
    response = api.call("PUT", "/v1/collections")
    assert response.status_code == 405
    assert "GET" in response.headers["Allow"]
    assert response.get_json()["code"] == "method_not_allowed"


def test_a_browser_gets_a_page_for_an_unknown_path(api):
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = api.call("GET", "/nope", headers=browser)
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert "There is no page at /nope." in page.get_data(as_text=True)
    assert "default-src" in page.headers["Content-Security-Policy"]
    for path, accept in (("/nope", "*/*"), ("/v1/nope", browser["Accept"])):
        response = api.call("GET", path, headers={"Accept": accept})
        assert (response.status_code, response.get_json()["code"]) == (404, "not_found")


def test_the_clients_request_id_is_kept_when_it_is_harmless(api):
    for request_id, kept in (("abc-1", True), ("a b", False), ("x" * 65, False)):
        response = api.call("GET", "/healthz", None, headers={"X-Request-Id": request_id})
        assert (response.headers["X-Request-Id"] == request_id) is kept


def test_an_internal_error_does_not_show_details_to_the_client(api, monkeypatch):
    def broken(*_arguments):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(type(api.services.keys), "page", broken)
    body = api.refused(500, "GET", "/v1/keys")
    assert body["code"] == "internal"
    assert "secret" not in json.dumps(body)


@pytest.mark.backends("sqlite", "postgresql")
@pytest.mark.parametrize("table", ["api_keys", "collections"])  # read without and with a session
def test_a_database_that_does_not_respond_is_503_with_retry_after(api, table):
    api.key("admin")
    with api.services.database.connection() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO elsewhere")
    response = api.call("GET", "/v1/collections")
    assert response.status_code == 503
    assert response.headers["Retry-After"]
