"""Persons: their fields, expiry and complete erasure."""

import io
import json
import sqlite3
from datetime import timedelta

import pytest

from match_server.services.lookups import collection_named

PERSONS = "/v1/collections/default/persons"


def test_a_person_keeps_what_was_given(api):
    made = api.ok(
        "POST",
        PERSONS,
        json={
            "name": " Zoë Ångström 山田 ",
            "id": "zoe",
            "external_id": "p-1",
            "metadata": {"floor": 3, "badge": ["a", None]},
        },
    )
    read = api.ok("GET", f"{PERSONS}/zoe")
    assert read["name"] == "Zoë Ångström 山田"
    assert read["metadata"] == {"floor": 3, "badge": ["a", None]}
    assert {**read, "seq": made["seq"]} == made


def test_a_name_in_two_unicode_spellings_is_one_name(api):
    api.person("Zoe\u0308")
    page = api.ok("GET", PERSONS, query_string={"q": "Zo\u00eb"})
    assert page["total"] == 1


def test_names_are_found_whatever_their_case_and_accents(api):
    api.person("Иван Müller")
    for text in ("иван", "ИВАН", "müller", "MÜLLER", "muller", "ван mu\u0308l"):
        assert api.ok("GET", PERSONS, query_string={"q": text})["total"] == 1, text
    assert api.ok("GET", PERSONS, query_string={"q": "mueller"})["total"] == 0


def test_persons_are_found_by_part_of_the_name_and_by_external_id(api):
    for name, external in (("Ann Lee", "a"), ("Annette", "b"), ("100% Bob_", "c")):
        api.person(name, external_id=external)
    assert api.ok("GET", f"{PERSONS}?q=ann")["total"] == 2
    assert api.ok("GET", PERSONS, query_string={"q": "%"})["total"] == 1
    assert api.ok("GET", PERSONS, query_string={"q": "b_"})["total"] == 1
    assert api.ok("GET", f"{PERSONS}?external_id=c")["items"][0]["name"] == "100% Bob_"


def test_persons_are_listed_by_conditions_and_by_expiry(api):
    past = (api.clock.now() - timedelta(hours=1)).isoformat()
    later = (api.clock.now() + timedelta(hours=1)).isoformat()
    api.person("Ann", metadata={"floor": 3}, expires_at=past)
    api.person("Bob", metadata={"floor": 4}, expires_at=later)
    api.person("Cleo", metadata={"floor": 5})

    def names(**query):
        return [item["name"] for item in api.ok("GET", PERSONS, query_string=query)["items"]]

    condition = {"field": "metadata.floor", "op": "gte", "value": 4}
    assert names(filter=json.dumps([condition])) == ["Bob", "Cleo"]
    assert names(filter=json.dumps([condition]), q="bo") == ["Bob"]
    assert names(expired="true") == ["Ann"]
    assert names(expired="false") == ["Bob", "Cleo"]
    api.refused(400, "GET", PERSONS, query_string={"filter": "floor>3"})
    api.refused(400, "GET", PERSONS, query_string={"filter": '[{"field": "x"}]'})


def test_paging_gives_each_person_once(api):
    expected = [api.person(f"P{number}") for number in range(7)]
    pages = [api.ok("GET", f"{PERSONS}?size=3&page={page}") for page in (1, 2, 3, 4)]
    assert [item["id"] for page in pages for item in page["items"]] == expected
    assert {page["total"] for page in pages} == {7}


@pytest.mark.parametrize("field", ["id", "external_id"])
def test_an_id_is_given_once_in_a_collection(api, field):
    api.person("Ann", **{field: "same"})
    api.refused(409, "POST", PERSONS, json={"name": "Bob", field: "same"})
    assert api.ok("GET", "/v1/collections/default")["persons"] == 1


def test_a_patch_changes_what_it_gives_and_null_takes_away(api):
    person = api.person("Ann", external_id="x", metadata={"a": 1})
    changed = api.ok("PATCH", f"{PERSONS}/{person}", json={"name": "Anna", "external_id": None})
    assert (changed["name"], changed["external_id"], changed["metadata"]) == (
        "Anna",
        None,
        {"a": 1},
    )


def test_an_expired_person_is_never_a_candidate_until_the_expiry_is_moved(api, helpers):
    vector = helpers.unit_vector(1)
    later = (api.clock.now() + timedelta(hours=1)).isoformat()
    person = api.person("Ann", vector, expires_at=later)
    assert api.names(vector) == ["Ann"]
    api.clock.advance(3600)
    assert api.names(vector) == []
    assert api.send(api.probe(vector))[0]["event"]["decision"] == "unknown"
    assert api.ok("GET", f"{PERSONS}/{person}")["expired"] is True
    api.ok("PATCH", f"{PERSONS}/{person}", json={"expires_at": None})
    assert api.names(vector) == ["Ann"]


def test_expired_persons_do_not_crowd_others_out_of_the_list(api, helpers):
    vector = helpers.unit_vector(1)
    past = (api.clock.now() - timedelta(hours=1)).isoformat()
    for number in range(30):
        near = helpers.unit_vector(100 + number, near=vector, similarity=0.9)
        api.person(f"Gone {number}", near, expires_at=past)
    api.person("Here", helpers.unit_vector(2, near=vector, similarity=0.5))
    assert api.names(vector, limit=1) == ["Here"]


def test_erasure_answers_what_was_erased_and_leaves_nothing(api, helpers):
    vector = helpers.unit_vector(0x0000C8)  # of the painted face below
    person = api.person("Ann Very-Rare-Name")
    api.call(
        "POST",
        f"{PERSONS}/{person}/images",
        data={"image": (io.BytesIO(helpers.paint(((0, 0, 200), 80))), "a.png")},
        query_string={"store": 1},
    )
    other = api.person("Bob", helpers.unit_vector(9, near=vector, similarity=0.2))
    event = api.send(api.probe(vector))[0]["event"]
    assert event["person"]["id"] == person
    erased = api.ok("DELETE", f"{PERSONS}/{person}")
    assert {name: erased[name] for name in ("templates", "images", "events", "snapshots")} == {
        "templates": 1,
        "images": 1,
        "events": 1,
        "snapshots": 1,
    }
    after = api.ok("GET", f"/v1/events/{event['id']}")
    assert after["person"] is None
    assert after["person_erased"] is True
    assert [item["person"]["id"] for item in after["candidates"]] == [other]
    api.refused(404, "GET", f"/v1/events/{event['id']}/snapshot")
    api.refused(404, "GET", f"{PERSONS}/{person}")
    assert api.names(vector) == ["Bob"]
    data = api.services.settings.data_dir
    assert not [file for file in data.rglob("*/??/*") if file.is_file()]
    api.services.close()
    with sqlite3.connect(data / "muster.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = (data / "muster.db").read_bytes()
    assert b"Very-Rare-Name" not in content
    assert vector.astype("<f2").tobytes() not in content


def test_an_erased_person_is_not_found_by_another_process_either(api, make_api, helpers):
    other = make_api()
    vector = helpers.unit_vector(1)
    person = api.person("Ann", vector)
    assert other.names(vector) == ["Ann"]
    api.ok("DELETE", f"{PERSONS}/{person}")
    assert other.names(vector) == []


def test_a_probe_that_was_searched_before_the_erasure_names_nobody_after_it(
    api, helpers, monkeypatch
):
    vector = helpers.unit_vector(1)
    person = api.person("Ann", vector)
    gallery = api.services.galleries.caught_up(_default(api.services)).gallery
    search = gallery.search

    def erase_meanwhile(*arguments, **options):
        candidates = search(*arguments, **options)
        if api.call("GET", f"{PERSONS}/{person}").status_code == 200:
            api.ok("DELETE", f"{PERSONS}/{person}")
        return candidates

    monkeypatch.setattr(gallery, "search", erase_meanwhile)
    event = api.send(api.probe(vector))[0]["event"]
    assert (event["decision"], event["person"], event["candidates"]) == ("unknown", None, [])


def _default(services):
    with services.database.read() as session:
        return collection_named(session, "default")


def test_files_of_an_interrupted_erasure_go_at_the_next_start(api, helpers, make_services):
    person = api.person("Ann")
    api.call(
        "POST",
        f"{PERSONS}/{person}/images?store=1",
        data={"image": (io.BytesIO(helpers.paint(((0, 0, 200), 80))), "a.png")},
    )
    sweep = type(api.services.files).sweep
    type(api.services.files).sweep = lambda self: 0  # the process dies before it gets there
    try:
        api.ok("DELETE", f"{PERSONS}/{person}")
    finally:
        type(api.services.files).sweep = sweep
    photos = api.services.settings.data_dir / "photos"
    assert [file for file in photos.rglob("*") if file.is_file()]
    make_services()
    assert not [file for file in photos.rglob("*") if file.is_file()]
