"""Groups: persons in several groups, changes of members in one step, erasure of persons."""

import pytest
from sqlalchemy import func, select

from match_server.db.tables import Change, Membership

PERSONS = "/v1/collections/default/persons"


def _group(api, name, **fields):
    body = {"collection": "default", "name": name, **fields}
    return api.ok("POST", "/v1/groups", json=body)["id"]


def _put(api, group, **lists):
    return api.ok("PUT", f"/v1/groups/{group}/persons", json=lists)


def test_a_group_is_created_listed_changed_and_erased(api):
    made = api.ok(
        "POST",
        "/v1/groups",
        json={"collection": "default", "name": "Night", "id": "night", "metadata": {"a": 1}},
    )
    assert (made["id"], made["persons"], made["collection"]) == ("night", 0, "default")
    read = api.ok("GET", "/v1/groups/night")
    assert {**read, "seq": made["seq"]} == made
    changed = api.ok("PATCH", "/v1/groups/night", json={"name": "Late"})
    assert (changed["name"], changed["metadata"]) == ("Late", {"a": 1})
    assert changed["seq"] > made["seq"]
    erased = api.ok("DELETE", "/v1/groups/night")
    assert erased["seq"] > changed["seq"]
    api.refused(404, "GET", "/v1/groups/night")


def test_persons_come_and_go_in_one_call_that_counts_what_changed(api):
    ann, bob, cleo = (api.person(name) for name in ("Ann", "Bob", "Cleo"))
    group = _group(api, "Night")
    first = _put(api, group, add=[ann, bob, ann])
    assert (first["added"], first["removed"], first["persons"]) == (2, 0, 2)
    second = _put(api, group, add=[bob, cleo], remove=[ann])
    assert (second["added"], second["removed"], second["persons"]) == (1, 1, 2)
    assert second["seq"] > first["seq"]
    again = _put(api, group, remove=[ann, "never-there"])
    assert (again["added"], again["removed"]) == (0, 0)
    listed = api.ok("GET", f"{PERSONS}?group={group}")
    assert [item["id"] for item in listed["items"]] == [bob, cleo]
    assert listed["total"] == 2


def test_more_persons_than_one_statement_takes_come_in_at_once(api):
    with api.services.database.write() as session:
        for number in range(1201):
            session.add(_row(f"p{number}"))
    group = _group(api, "All")
    everybody = [f"p{number}" for number in range(1201)]
    assert _put(api, group, add=everybody)["added"] == 1201
    assert _put(api, group, remove=everybody[1:])["removed"] == 1200


def _row(identifier):
    from datetime import UTC, datetime

    from match_server.db.tables import Person

    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Person(id=identifier, collection_number=1, name="x", meta={}, created_at=now)


def test_a_person_is_in_many_groups_from_its_creation_or_by_a_patch(api):
    day, night, kitchen = (_group(api, name) for name in ("Day", "Night", "Kitchen"))
    ann = api.person("Ann", groups=[night, day, day])
    assert api.ok("GET", f"{PERSONS}/{ann}")["groups"] == [day, night]
    api.ok("PATCH", f"{PERSONS}/{ann}", json={"name": "Anna"})
    assert api.ok("GET", f"{PERSONS}/{ann}")["groups"] == [day, night]
    changed = api.ok("PATCH", f"{PERSONS}/{ann}", json={"groups": [kitchen]})
    assert changed["groups"] == [kitchen]
    page = api.ok("GET", f"/v1/groups?person={ann}")
    assert [item["name"] for item in page["items"]] == ["Kitchen"]
    assert api.ok("PATCH", f"{PERSONS}/{ann}", json={"groups": []})["groups"] == []


def test_a_group_holds_persons_of_its_own_collection_only(api):
    api.ok("POST", "/v1/collections", json={"name": "staff"})
    body = {"collection": "staff", "name": "Night", "id": "night"}
    api.ok("POST", "/v1/groups", json=body)
    ann = api.person("Ann")
    message = api.refused(404, "PUT", "/v1/groups/night/persons", json={"add": [ann]})["message"]
    assert ann in message
    api.refused(404, "POST", PERSONS, json={"name": "Bob", "groups": ["night"]})
    api.refused(404, "PATCH", f"{PERSONS}/{ann}", json={"groups": ["night"]})
    api.refused(404, "GET", f"{PERSONS}?group=night")
    assert api.ok("GET", PERSONS)["total"] == 1


def test_an_unknown_person_leaves_the_group_as_it_was(api):
    ann, bob = api.person("Ann"), api.person("Bob")
    group = _group(api, "Night")
    _put(api, group, add=[ann])
    body = {"add": [bob, "nobody"], "remove": [ann]}
    api.refused(404, "PUT", f"/v1/groups/{group}/persons", json=body)
    listed = api.ok("GET", f"{PERSONS}?group={group}")
    assert [item["id"] for item in listed["items"]] == [ann]


def test_a_person_in_both_lists_is_a_contradiction(api):
    ann = api.person("Ann")
    group = _group(api, "Night")
    body = {"add": [ann], "remove": [ann]}
    api.refused(400, "PUT", f"/v1/groups/{group}/persons", json=body)


@pytest.mark.parametrize("clash", [{"id": "night"}, {"name": "Night"}])
def test_id_and_name_of_a_group_are_given_once(api, clash):
    _group(api, "Night", id="night")
    other = _group(api, "Day", id="day")
    body = {"collection": "default", "name": "Third", **clash}
    api.refused(409, "POST", "/v1/groups", json=body)
    api.refused(409, "PATCH", f"/v1/groups/{other}", json={"name": "Night"})


def test_the_same_name_in_another_collection_is_another_group(api):
    api.ok("POST", "/v1/collections", json={"name": "staff"})
    _group(api, "Night")
    api.ok("POST", "/v1/groups", json={"collection": "staff", "name": "Night"})
    assert api.ok("GET", "/v1/groups")["total"] == 2
    assert api.ok("GET", "/v1/groups?collection=staff&q=nig")["total"] == 1
    api.refused(404, "GET", "/v1/groups?collection=nobody")


def test_paging_gives_each_group_once(api):
    expected = sorted(_group(api, f"G{number}", id=f"g{number}") for number in range(7))
    pages = [api.ok("GET", f"/v1/groups?size=3&page={page}") for page in (1, 2, 3, 4)]
    assert [item["id"] for page in pages for item in page["items"]] == expected
    assert {page["total"] for page in pages} == {7}


def test_erasing_a_person_takes_it_out_of_its_groups_and_says_of_how_many(api):
    day, night = _group(api, "Day"), _group(api, "Night")
    ann, bob = api.person("Ann", groups=[day, night]), api.person("Bob", groups=[day])
    assert api.ok("DELETE", f"{PERSONS}/{ann}")["groups"] == 2
    assert api.ok("GET", f"/v1/groups/{day}")["persons"] == 1
    assert api.ok("GET", f"/v1/groups/{night}")["persons"] == 0
    assert _memberships(api) == 1
    assert api.ok("GET", f"{PERSONS}/{bob}")["groups"] == [day]


def test_erasing_a_group_leaves_its_persons(api):
    group = _group(api, "Day")
    ann = api.person("Ann", groups=[group])
    assert api.ok("DELETE", f"/v1/groups/{group}")["persons"] == 1
    assert api.ok("GET", f"{PERSONS}/{ann}")["groups"] == []
    assert _memberships(api) == 0


def test_erasing_a_collection_takes_its_groups_with_it(api):
    group = _group(api, "Day")
    api.person("Ann", groups=[group])
    api.ok("DELETE", "/v1/collections/default")
    api.refused(404, "GET", f"/v1/groups/{group}")
    assert _memberships(api) == 0


def _memberships(api):
    with api.services.database.read() as session:
        return session.scalar(select(func.count()).select_from(Membership))


def test_every_write_to_a_group_is_a_line_of_the_change_feed(api):
    ann = api.person("Ann")
    group = _group(api, "Day")
    _put(api, group, add=[ann])
    api.ok("PATCH", f"/v1/groups/{group}", json={"name": "Late"})
    api.ok("DELETE", f"/v1/groups/{group}")
    with api.services.database.read() as session:
        kinds = session.scalars(
            select(Change.kind).where(Change.subject == group).order_by(Change.seq)
        ).all()
    assert kinds == ["group_created", "group_updated", "group_updated", "group_erased"]


def test_roles_read_or_write_groups(api):
    body = {"collection": "default", "name": "Day"}
    for role in ("viewer", "searcher", "device"):
        api.refused(403, "POST", "/v1/groups", role, json=body)
    api.ok("POST", "/v1/groups", "enroller", json=body)
    assert api.ok("GET", "/v1/groups", "viewer")["total"] == 1
    api.refused(403, "GET", "/v1/groups", "device")
