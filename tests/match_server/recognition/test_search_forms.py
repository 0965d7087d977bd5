"""Searches in groups, by metadata, over several collections, and with creation of persons."""

import base64
import io
import json
import operator

import numpy as np
import pytest

SEARCH = "/v1/collections/default/search"
PERSONS = "/v1/collections/default/persons"
RED, GREEN, BLUE, DARK = (0, 0, 200), (0, 200, 0), (200, 0, 0), (10, 20, 5)


def _colour(helpers, colour):
    return helpers.unit_vector(int.from_bytes(bytes(colour), "big"))


def _where(*conditions):
    return [dict(zip(("field", "op", "value"), condition, strict=True)) for condition in conditions]


def _crowd(api, helpers, probe):
    """Persons similar to one probe, the most similar first."""
    crowd = {
        "Ann": {"floor": 3, "team": "red", "since": "2024-03-01", "admin": True},
        "Bob": {"floor": 5, "team": "blue", "since": "2025-01-15", "badges": ["a", "b"]},
        "Cleo": {"floor": "3", "team": "red", "office": {"city": "Oslo"}},
        "Dan": {},
    }
    for place, (name, metadata) in enumerate(crowd.items()):
        vector = helpers.unit_vector(50 + place, near=probe, similarity=0.8 - 0.1 * place)
        api.person(name, vector, metadata=metadata, external_id=f"x-{name}")


CONDITIONS = [
    ([("metadata.floor", "eq", 3)], ["Ann"]),
    ([("metadata.floor", "eq", 3.0)], ["Ann"]),
    ([("metadata.floor", "eq", "3")], ["Cleo"]),
    ([("metadata.floor", "gte", 4)], ["Bob"]),
    ([("metadata.floor", "lte", 5)], ["Ann", "Bob"]),
    ([("metadata.floor", "in", [3, "3"])], ["Ann", "Cleo"]),
    ([("metadata.floor", "nin", [3])], ["Bob", "Cleo", "Dan"]),
    ([("metadata.team", "eq", "red"), ("metadata.floor", "eq", 3)], ["Ann"]),
    ([("metadata.since", "gte", "2024-06-01")], ["Bob"]),
    ([("metadata.admin", "eq", True)], ["Ann"]),
    ([("metadata.admin", "eq", 1)], []),
    ([("metadata.admin", "eq", "true")], []),
    ([("metadata.badges", "eq", "b")], ["Bob"]),
    ([("metadata.badges", "in", ["c", "a"])], ["Bob"]),
    ([("metadata.office.city", "eq", "Oslo")], ["Cleo"]),
    ([("metadata.nothing", "eq", 1)], []),
    ([("metadata.nothing", "nin", [1])], ["Ann", "Bob", "Cleo", "Dan"]),
    ([("name", "in", ["Dan", "Bob"])], ["Bob", "Dan"]),
    ([("name", "gte", "C")], ["Cleo", "Dan"]),
    ([("external_id", "eq", "x-Ann")], ["Ann"]),
    ([("external_id", "nin", ["x-Ann", "x-Bob"])], ["Cleo", "Dan"]),
    ([("id", "eq", "nobody")], []),
]


def test_conditions_choose_who_can_be_found(api, helpers):
    probe = helpers.unit_vector(1)
    _crowd(api, helpers, probe)
    for conditions, names in CONDITIONS:
        assert api.names(probe, filter=_where(*conditions)) == names, conditions
        answer = api.search(probe, filter=_where(*conditions))
        assert answer["searched"] == len(names), conditions


@pytest.mark.parametrize("seed", range(5))
def test_conditions_choose_as_a_loop_over_all_persons_would(api, helpers, seed):
    random = np.random.default_rng(seed)
    probe = helpers.unit_vector(1)
    held: dict[str, float | None] = {}
    for number in range(30):
        value = None if random.integers(5) == 0 else float(random.integers(-5, 6)) / 2
        name = f"P{number:02}"
        held[name] = value
        metadata = {} if value is None else {"value": value}
        api.person(name, helpers.unit_vector(100 + number), metadata=metadata)
    for op, holds in (("gte", operator.ge), ("lte", operator.le), ("eq", operator.eq)):
        limit = float(random.integers(-5, 6)) / 2
        expected = {n for n, value in held.items() if value is not None and holds(value, limit)}
        results = api.names(probe, filter=_where(("metadata.value", op, limit)), limit=100)
        assert set(results) == expected
        assert len(results) == len(expected)


def test_a_filter_follows_the_metadata_of_a_person(api, helpers):
    vector = helpers.unit_vector(1)
    person = api.person("Ann", vector, metadata={"floor": 1})
    first, second = (_where(("metadata.floor", "eq", floor)) for floor in (1, 2))
    assert api.names(vector, filter=first) == ["Ann"]
    api.ok("PATCH", f"{PERSONS}/{person}", json={"metadata": {"floor": 2}})
    assert (api.names(vector, filter=first), api.names(vector, filter=second)) == ([], ["Ann"])
    api.ok("DELETE", f"{PERSONS}/{person}")
    assert api.names(vector, filter=second) == []


def test_odd_metadata_is_kept_and_harms_no_filter(api, helpers):
    vector = helpers.unit_vector(1)
    metadata = {
        "huge": 10**400,
        "long": "y" * 500,
        "k" * 300: 1,
        "nothing": None,
        "deep": [[{"a": [1, 2]}]],
    }
    person = api.person("Ann", vector, metadata=metadata)
    assert api.ok("GET", f"{PERSONS}/{person}")["metadata"] == metadata
    assert api.names(vector, filter=_where(("metadata.deep.a", "eq", 2))) == ["Ann"]
    assert api.names(vector, filter=_where(("metadata.huge", "gte", 0))) == []
    assert api.names(vector, filter=_where(("metadata.long", "gte", "yy"))) == ["Ann"]
    assert api.names(vector, filter=_where(("metadata.long", "eq", "y" * 199))) == []


def test_erasure_takes_what_was_kept_of_the_metadata_for_filters(api, helpers):
    person = api.person("Ann", metadata={"secret": "Very-Rare-Value"})
    api.ok("DELETE", f"{PERSONS}/{person}")
    from sqlalchemy import func, select

    from match_server.db.tables import PersonField

    with api.services.database.read() as session:
        assert session.scalar(select(func.count()).select_from(PersonField)) == 0


def test_groups_choose_who_can_be_found_and_add_up(api, helpers):
    probe = helpers.unit_vector(1)
    _crowd(api, helpers, probe)
    ids = {one["name"]: one["id"] for one in api.ok("GET", PERSONS)["items"]}
    for group, members in (("day", ["Ann", "Dan"]), ("night", ["Dan", "Cleo"]), ("none", [])):
        api.ok("POST", "/v1/groups", json={"collection": "default", "name": group, "id": group})
        body = {"add": [ids[name] for name in members]}
        api.ok("PUT", f"/v1/groups/{group}/persons", json=body)
    assert api.names(probe, groups=["day"]) == ["Ann", "Dan"]
    assert api.names(probe, groups=["day", "night"]) == ["Ann", "Cleo", "Dan"]
    assert api.names(probe, groups=["none"]) == []
    red = _where(("metadata.team", "eq", "red"))
    assert api.names(probe, groups=["night"], filter=red) == ["Cleo"]
    assert api.search(probe, groups=["night"])["probes"][0]["person"]["name"] == "Cleo"


def test_a_group_that_the_collection_does_not_have_is_named(api, helpers):
    body = {"template_id": api.template(api.person("Ann"), helpers.unit_vector(1))["id"]}
    refused = api.refused(404, "POST", SEARCH, json={**body, "groups": ["ghosts"]})
    assert "ghosts" in refused["message"]


def test_many_templates_outside_of_a_group_do_not_crowd_it_out(api, helpers):
    probe = helpers.unit_vector(1)
    for number in range(60):
        near = helpers.unit_vector(100 + number, near=probe, similarity=0.9)
        api.person(f"Outside {number}", near)
    api.ok("POST", "/v1/groups", json={"collection": "default", "name": "In", "id": "in"})
    far = helpers.unit_vector(2, near=probe, similarity=0.1)
    api.person("Inside", far, groups=["in"])
    assert api.names(probe, groups=["in"], limit=1) == ["Inside"]


def test_a_form_says_groups_and_filter_as_text(api, helpers):
    api.ok("POST", "/v1/groups", json={"collection": "default", "name": "In", "id": "in"})
    api.person("Red", _colour(helpers, RED), metadata={"floor": 3}, groups=["in"])
    picture = helpers.paint((RED, 80))

    def candidates(**fields):
        data = {"image": (io.BytesIO(picture), "a.png"), **fields}
        answer = api.call("POST", SEARCH, data=data)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        return [one["person"]["name"] for one in answer.get_json()["probes"][0]["candidates"]]

    third = json.dumps(_where(("metadata.floor", "eq", 3)))
    fourth = json.dumps(_where(("metadata.floor", "eq", 4)))
    assert candidates(groups="in", filter=third) == ["Red"]
    assert candidates(filter=fourth) == []
    bad = {"image": (io.BytesIO(picture), "a.png"), "filter": "floor=3"}
    api.refused(400, "POST", SEARCH, data=bad)


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    "wrong",
    [
        {"filter": _where(("floor", "eq", 3))},
        {"filter": _where(("metadata.floor", "like", 3))},
        {"filter": _where(("metadata.floor", "eq", [3]))},
        {"filter": _where(("metadata.floor", "in", 3))},
        {"filter": _where(("metadata.floor", "in", []))},
        {"filter": _where(("metadata.floor", "eq", None))},
        {"filter": _where(("metadata.floor", "eq", {"a": 1}))},
        {"filter": _where(("metadata.admin", "gte", True))},
        {"filter": _where(("name", "eq", 3))},
        {"filter": _where(("metadata.a", "eq", "x" * 200))},
        {"filter": {"field": "name", "op": "eq", "value": "x"}},
        {"filter": "[]"},
        {"filter": [{"field": "name", "op": "eq"}]},
        {"groups": []},
        {"groups": "day"},
        {"groups": ["a b"]},
        {"create_person": "yes"},
        {"create_person": {"nam": "x"}},
        {"create_person": True, "groups": ["day"]},
        {"create_person": True, "filter": _where(("name", "eq", "x"))},
    ],
    ids=str,
)
def test_a_search_that_makes_no_sense_is_malformed(api, helpers, wrong):
    probe = {"vector": helpers.encode(helpers.unit_vector(1)), "model_id": helpers.MODEL}
    api.refused(400, "POST", SEARCH, json={"templates": [probe], **wrong})


def test_two_faces_of_one_picture_are_never_the_same_person(api, helpers):
    red = _colour(helpers, RED)
    api.person("Ann", red)
    # The other face is like Ann too, and a little less like Bob.
    green = _colour(helpers, GREEN)
    api.ok("PATCH", "/v1/collections/default", json={"policy": {"threshold": 0.2}})
    both = helpers.unit_vector(5, near=green, similarity=0.5)
    api.template(api.ok("GET", PERSONS)["items"][0]["id"], both)
    api.person("Bob", helpers.unit_vector(6, near=green, similarity=0.4))
    picture = base64.b64encode(helpers.paint((RED, 90), (GREEN, 50))).decode()

    def seen(**more):
        probes = api.ok("POST", SEARCH, json={"image": picture, **more})["probes"]
        return [one["person"] and one["person"]["name"] for one in probes]

    assert seen(detect_all=True) == ["Ann", "Bob"]
    assert seen(detect_all=True, limit=1) == ["Ann", "Bob"]
    assert seen(detect_all=True, threshold=0.45) == ["Ann", None]


def test_templates_of_one_request_may_be_the_same_person(api, helpers):
    api.person("Ann", helpers.unit_vector(1))
    probe = {"vector": helpers.encode(helpers.unit_vector(1)), "model_id": helpers.MODEL}
    answer = api.ok("POST", SEARCH, json={"templates": [probe, probe]})
    assert [one["person"]["name"] for one in answer["probes"]] == ["Ann", "Ann"]


class TestSeveralCollections:
    @pytest.fixture
    def three(self, api, helpers):
        probe = helpers.unit_vector(1)
        for place, name in enumerate(("staff", "visitors", "banned")):
            api.ok("POST", "/v1/collections", json={"name": name})
            for number in range(4):
                similarity = 0.75 - 0.1 * number - 0.02 * place
                near = helpers.unit_vector(10 * place + number, near=probe, similarity=similarity)
                _enroll(api, helpers, name, f"{name} {number}", near)
        return probe

    def _everywhere(self, api, helpers, probe, collections, **more):
        one = {"vector": helpers.encode(probe), "model_id": helpers.MODEL}
        body = {"templates": [one], "collections": collections, **more}
        return api.ok("POST", "/v1/search", json=body)

    def test_lists_are_merged_as_if_all_were_one(self, api, helpers, three):
        answer = self._everywhere(api, helpers, three, ["visitors", "staff"], limit=5)
        results = answer["probes"][0]["candidates"]
        assert [one["person"]["name"] for one in results] == [
            "staff 0",
            "visitors 0",
            "staff 1",
            "visitors 1",
            "staff 2",
        ]
        assert [one["collection"] for one in results[:2]] == ["staff", "visitors"]
        assert [one["rank"] for one in results] == [1, 2, 3, 4, 5]
        assert (answer["searched"], answer["probes"][0]["collection"]) == (8, "staff")

    def test_each_candidate_is_judged_by_its_own_collection(self, api, helpers, three):
        def decision():
            answer = self._everywhere(api, helpers, three, ["staff", "visitors"])["probes"][0]
            return answer["decision"], answer["collection"]

        api.ok("PATCH", "/v1/collections/visitors", json={"policy": {"threshold": 0.9}})
        assert decision() == ("identified", "staff")
        api.ok("PATCH", "/v1/collections/visitors", json={"policy": {"margin": 0.05}})
        assert decision() == ("ambiguous", None)
        api.ok("PATCH", "/v1/collections/staff", json={"policy": {"threshold": 0.9}})
        assert decision() == ("unknown", None)

    def test_groups_of_either_collection_count(self, api, helpers, three):
        first = api.ok("GET", "/v1/collections/banned/persons")["items"][0]["id"]
        api.ok("POST", "/v1/groups", json={"collection": "banned", "name": "g", "id": "g"})
        api.ok("PUT", "/v1/groups/g/persons", json={"add": [first]})
        answer = self._everywhere(api, helpers, three, ["staff", "banned"], groups=["g"])
        names = [one["person"]["name"] for one in answer["probes"][0]["candidates"]]
        assert (names, answer["searched"]) == (["banned 0"], 1)

    def test_collections_of_two_models_are_a_mismatch(self, api, helpers, three):
        from match_server.services.lookups import collection_named

        with api.services.database.write() as session:
            collection_named(session, "banned").model_id = "other@2"
        one = {"vector": helpers.encode(three), "model_id": helpers.MODEL}
        body = {"templates": [one], "collections": ["staff", "banned"]}
        assert api.refused(409, "POST", "/v1/search", json=body)["code"] == "model_mismatch"

    def test_a_collection_that_is_not_there_or_that_is_twice(self, api, helpers, three):
        one = {"vector": helpers.encode(three), "model_id": helpers.MODEL}
        body = {"templates": [one], "collections": ["staff", "nowhere"]}
        assert "nowhere" in api.refused(404, "POST", "/v1/search", json=body)["message"]
        api.refused(400, "POST", "/v1/search", json={"templates": [one], "collections": []})
        api.refused(400, "POST", "/v1/search", json={"templates": [one]})
        assert self._everywhere(api, helpers, three, ["staff", "staff"])["searched"] == 4

    def test_an_enrolled_template_of_any_of_them_searches_all(self, api, helpers, three):
        results = self._everywhere(api, helpers, three, ["staff"])["probes"][0]["candidates"][0]
        body = {"template_id": results["template_id"], "collections": ["visitors", "staff"]}
        answer = api.ok("POST", "/v1/search", json=body)["probes"][0]
        assert answer["person"]["name"] == "staff 0"

    def test_a_picture_in_a_form_names_collections_by_commas(self, api, helpers, three):
        _enroll(api, helpers, "visitors", "Red", _colour(helpers, RED))
        data = {"image": (io.BytesIO(helpers.paint((RED, 80))), "a.png")}
        answer = api.call("POST", "/v1/search?collections=staff,visitors", data=data).get_json()
        assert answer["probes"][0]["person"]["name"] == "Red"


def _enroll(api, helpers, collection, name, vector):
    made = api.ok("POST", f"/v1/collections/{collection}/persons", json={"name": name})
    api.ok(
        "POST",
        f"/v1/collections/{collection}/persons/{made['id']}/templates",
        json={"template": helpers.encode(vector), "model_id": helpers.MODEL},
    )


class TestNewcomers:
    def _search(self, api, picture, create=True, **more):
        body = {"image": base64.b64encode(picture).decode(), "create_person": create, **more}
        return api.ok("POST", SEARCH, json=body)

    def test_who_is_like_nobody_is_created_once_and_found_from_then_on(self, api, helpers):
        picture = helpers.paint((RED, 80))
        first = self._search(api, picture)
        probe = first["probes"][0]
        assert (probe["decision"], probe["created"]) == ("unknown", True)
        assert probe["person"]["name"].startswith("Unknown 2026-11-22")
        second = self._search(api, picture, min_seq=first["seq"])["probes"][0]
        assert (second["decision"], second["created"]) == ("identified", False)
        assert second["person"] == probe["person"]
        images = api.ok("GET", f"{PERSONS}/{probe['person']['id']}/images")["items"]
        assert [one["stored"] for one in images] == [False]

    def test_a_newcomer_gets_what_the_request_says(self, api, helpers):
        api.ok("POST", "/v1/groups", json={"collection": "default", "name": "New", "id": "new"})
        known = {"name": "Guest", "metadata": {"door": 2}, "groups": ["new"]}
        made = self._search(api, helpers.paint((RED, 80)), known)["probes"][0]["person"]
        person = api.ok("GET", f"{PERSONS}/{made['id']}")
        assert (person["name"], person["metadata"], person["groups"]) == (
            "Guest",
            {"door": 2},
            ["new"],
        )

    def test_each_unknown_face_of_a_picture_becomes_a_person(self, api, helpers):
        api.person("Green", _colour(helpers, GREEN))
        picture = helpers.paint((RED, 50), (GREEN, 90), (BLUE, 60))
        probes = self._search(api, picture, detect_all=True)["probes"]
        assert [one["created"] for one in probes] == [False, True, True]
        assert api.ok("GET", PERSONS)["total"] == 3

    def test_a_face_of_bad_quality_becomes_nobody(self, api, helpers):
        probe = self._search(api, helpers.paint((DARK, 80)))["probes"][0]
        assert (probe["created"], probe["person"]) == (False, None)
        assert api.ok("GET", PERSONS)["total"] == 0

    def test_a_stricter_threshold_of_the_request_makes_no_second_person(self, api, helpers):
        near = helpers.unit_vector(3, near=_colour(helpers, RED), similarity=0.6)
        api.person("Red", near)
        probe = self._search(api, helpers.paint((RED, 80)), threshold=0.9)["probes"][0]
        assert (probe["decision"], probe["created"]) == ("unknown", False)
        assert api.ok("GET", PERSONS)["total"] == 1
        assert api.ok("GET", "/v1/collections/default")["persons"] == 1

    def test_two_equal_templates_of_one_request_become_one_person(self, api, helpers):
        one = {"vector": helpers.encode(helpers.unit_vector(1)), "model_id": helpers.MODEL}
        body = {"templates": [one, one], "create_person": True}
        probes = api.ok("POST", SEARCH, json=body)["probes"]
        assert [probe["created"] for probe in probes] == [True, False]
        assert api.ok("GET", PERSONS)["total"] == 1

    def test_a_full_collection_takes_no_newcomer(self, api, helpers):
        api.ok("PATCH", "/v1/collections/default", json={"max_templates": 1})
        api.person("Ann", helpers.unit_vector(1))
        image = base64.b64encode(helpers.paint((RED, 80))).decode()
        api.refused(409, "POST", SEARCH, json={"image": image, "create_person": True})
        assert api.ok("GET", PERSONS)["total"] == 1

    def test_to_create_takes_the_right_to_enroll(self, api, helpers):
        image = base64.b64encode(helpers.paint((RED, 80))).decode()
        body = {"image": image, "create_person": True}
        api.refused(403, "POST", SEARCH, "searcher", json=body)
        api.ok("POST", SEARCH, "searcher", json={**body, "create_person": False})
        assert api.ok("GET", PERSONS)["total"] == 0
