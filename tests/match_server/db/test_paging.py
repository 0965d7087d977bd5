"""Pages by the key of the last row: deleting rows meanwhile skips no other row."""

import base64
import json

import pytest

STAFF = "/v1/collections/default/persons"


def walked(api, path, size=2, each=lambda item: None):
    """All items of a list, page by page by `next`; `each` is called after each page."""
    items, query = [], {"size": size}
    while True:
        page = api.ok("GET", path, query_string=query)
        items += page["items"]
        for item in page["items"]:
            each(item)
        if page["next"] is None:
            return items
        query["after"] = page["next"]


def test_deleting_while_paging_skips_nobody(api):
    people = {api.person(f"P{number}") for number in range(7)}
    seen = walked(api, STAFF, each=lambda one: api.ok("DELETE", f"{STAFF}/{one['id']}"))
    assert {one["id"] for one in seen} == people
    assert api.ok("GET", STAFF)["total"] == 0


@pytest.mark.backends("sqlite", "postgresql")
def test_every_list_goes_on_after_its_last_row_in_the_same_order(api, helpers):
    for number in range(5):
        person = api.person(f"P{number}", helpers.unit_vector(number))
        api.template(person, helpers.unit_vector(50 + number))
        api.ok(
            "POST", "/v1/groups", json={"collection": "default", "name": f"g{number % 2}{number}"}
        )
        api.ok("POST", "/v1/collections", json={"name": f"c{number}"})
        api.send(api.probe(helpers.unit_vector(number), device=f"box-{number}"))
        galleries = {"galleries": [{"collection": "default"}, {"collection": f"c{number}"}]}
        api.ok("PUT", f"/v1/devices/box-{number}/galleries", json=galleries)
        gone = api.person("gone")
        api.ok("DELETE", f"{STAFF}/{gone}")
    lists = ("persons", "collections", "groups", "events", "followers", "keys", "erasures", "audit")
    for name in lists:
        path = STAFF if name == "persons" else f"/v1/{name}"
        whole = api.ok("GET", path, query_string={"size": 1000})
        assert whole["next"] is None
        if name == "audit":  # each look may add an entry at the beginning
            whole["items"] = whole["items"][-10:]
        assert walked(api, path)[-len(whole["items"]) :] == whole["items"], name
        assert len(whole["items"]) >= 2, name


def cursor(values):
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("path", "after"),
    [
        (STAFF, "x"),
        (STAFF, "\u0663"),
        (STAFF, cursor({})),
        (STAFF, cursor(["1"])),
        (STAFF, cursor([True])),
        (STAFF, cursor([2**63])),
        (STAFF, cursor([1, 2])),
        ("/v1/collections", cursor(["\ud800"])),
        ("/v1/collections", cursor(["a\0"])),
        ("/v1/events", cursor(["2026-01-01T00:00:00", "x"])),
    ],
)
def test_a_cursor_that_is_none_is_refused(api, path, after):
    refused = api.refused(400, "GET", path, query_string={"after": after})
    assert refused["message"].startswith("after: ")


def test_a_page_number_and_a_cursor_contradict_each_other(api):
    query = {"after": cursor([1]), "page": 2}
    assert "page" in api.refused(400, "GET", STAFF, query_string=query)["message"]
