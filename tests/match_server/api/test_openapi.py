"""The OpenAPI document describes the routes, and the responses match it."""

import re

import jsonschema
import pytest

pytestmark = pytest.mark.backends("sqlite")


@pytest.fixture
def document(api):
    return api.ok("GET", "/openapi.json", None)


def test_every_route_is_in_the_document_and_nothing_else(api, document):
    routes = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in api.client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint.partition(".")[0] != "pages"
    }
    documented = {
        (method.upper(), path) for path, calls in document["paths"].items() for method in calls
    }
    assert documented == routes
    assert len(routes) > 25


def test_it_is_openapi_3_1_and_every_reference_leads_somewhere(document):
    assert document["openapi"] == "3.1.0"
    references = set(re.findall(r"'#/components/schemas/([^']+)'", str(document)))
    assert references <= set(document["components"]["schemas"])
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_operation_ids_are_unique_and_security_is_documented(document):
    calls = [call for methods in document["paths"].values() for call in methods.values()]
    names = [call["operationId"] for call in calls]
    assert len({*names}) == len(names)
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", name) for name in names)
    assert {"create_person", "enroll_image", "search", "list_events"} < {*names}
    for path, methods in document["paths"].items():
        for call in methods.values():
            guarded = path.startswith("/v1/") and path != "/v1/devices/enroll"  # by its code
            assert bool(call["security"]) == guarded
            assert call["summary"]


def _whole_numbers(schema, where, known):
    """The places in a schema with an integer without a lower or an upper bound."""
    name = schema.get("$ref", "").rpartition("/")[2]
    if name:
        inner = {other: known[other] for other in known if other != name}  # circles are walked once
        yield from _whole_numbers(known.get(name, {}), f"{where}:{name}", inner)
    bounds = ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"})
    if schema.get("type") == "integer" and not {"const", "enum"} & schema.keys():
        yield from (where for bound in bounds if not bound & schema.keys())
    parts = [(where, part) for kind in ("anyOf", "oneOf", "allOf") for part in schema.get(kind, [])]
    parts += [(f"{where}.{key}", part) for key, part in schema.get("properties", {}).items()]
    parts += [(f"{where}[]", part) for part in schema.get("prefixItems", [])]
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            parts.append((f"{where}[]", schema[key]))
    for place, part in parts:
        yield from _whole_numbers(part, place, known)


def test_every_integer_in_a_request_is_bounded(document):
    """The database stores 64 bits; a larger number would be an internal error."""
    schemas, unbounded = document["components"]["schemas"], []
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            bodies = call.get("requestBody", {}).get("content", {}).values()
            for schema in (
                *(parameter["schema"] for parameter in call["parameters"]),
                *(body["schema"] for body in bodies),
            ):
                unbounded += _whole_numbers(schema, f"{method} {path} ", schemas)
    assert unbounded == []


def test_the_document_and_its_page_are_made_once_and_have_an_etag(api, monkeypatch):
    for path in ("/openapi.json", "/docs"):
        first = api.client.get(path)
        monkeypatch.setattr("match_server.app.openapi_document", None)  # cannot be made again
        again = api.client.get(path)
        assert (again.status_code, again.data) == (200, first.data)
        known = api.client.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert (known.status_code, known.data) == (304, b"")
        monkeypatch.undo()


def test_a_readiness_check_reads_no_files(api, monkeypatch):
    assert api.client.get("/readyz").status_code == 200
    monkeypatch.setattr("match_server.db.migrations._SCRIPTS", None)  # a folder to read each time
    assert api.client.get("/readyz").status_code == 200


def test_examples_match_their_schemas(document):
    for methods in document["paths"].values():
        for call in methods.values():
            for content in call.get("requestBody", {}).get("content", {}).values():
                if "example" in content:
                    schema = {**content["schema"], "components": document["components"]}
                    jsonschema.validate(content["example"], schema)


def test_responses_match_their_schemas(api, document, helpers):
    vector = helpers.unit_vector(1)
    person = api.person("Ann", vector, metadata={"floor": 1})
    group = api.ok("POST", "/v1/groups", json={"collection": "default", "name": "Day"})["id"]
    event = api.send(api.probe(vector))[0]["event"]

    def check(method, path, template, status, response):
        schema = document["paths"][template][method]["responses"][status]["content"]
        schema = schema["application/json"]["schema"]
        jsonschema.validate(response, {**schema, "components": document["components"]})

    collection = "/v1/collections/{collection}"
    for path, template in (
        ("/v1/collections", "/v1/collections"),
        ("/v1/collections/default", collection),
        ("/v1/collections/default/persons", f"{collection}/persons"),
        (f"/v1/collections/default/persons/{person}", f"{collection}/persons/{{person}}"),
        ("/v1/groups", "/v1/groups"),
        (f"/v1/groups/{group}", "/v1/groups/{group}"),
        ("/v1/events", "/v1/events"),
        (f"/v1/events/{event['id']}", "/v1/events/{event}"),
        ("/v1/keys", "/v1/keys"),
        ("/healthz", "/healthz"),
        ("/readyz", "/readyz"),
    ):
        check("get", path, template, "200", api.ok("GET", path))
    check("post", "", f"{collection}/search", "200", api.search(vector))
    missing = api.refused(404, "GET", "/v1/collections/nobody")
    check("get", "", collection, "404", missing)
