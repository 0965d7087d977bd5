"""The cache of persons shows no person as they were before a change that a search has reached."""

import threading

import numpy as np
import pytest
from sqlalchemy import select

from match_server.db.tables import Template
from match_server.services.change_feed import position
from match_server.services.collection_ref import collection_ref
from match_server.services.recognition.person_cache import PersonCache, stored_persons
from match_server.services.revision import feed_position


def _numbers(api):
    with api.services.database.read() as session:
        return list(session.scalars(select(Template.number).order_by(Template.number)))


def _cached(api, cache, numbers):
    return dict(_lookup(api, cache)(numbers))


def _lookup(api, cache, seq=None):
    database = api.services.database
    feed = feed_position(database)
    feed = feed if seq is None else feed._replace(seq=seq)
    return cache.at(feed, collection_ref(database, "default"))


def test_renamed_erased_and_removed_persons_are_read_again(api, helpers):
    cache = PersonCache(api.services.database)
    people = [api.person(f"P{n}", helpers.unit_vector(n)) for n in range(4)]
    numbers = _numbers(api)
    assert [person.person_name for person in _cached(api, cache, numbers).values()] == [
        "P0",
        "P1",
        "P2",
        "P3",
    ]
    api.ok("PATCH", f"/v1/collections/default/persons/{people[0]}", json={"name": "Renamed"})
    api.ok("DELETE", f"/v1/collections/default/persons/{people[1]}")
    (template,) = api.ok("GET", f"/v1/collections/default/persons/{people[2]}/templates")["items"]
    api.call("DELETE", f"/v1/templates/{template['id']}")
    after = _cached(api, cache, numbers)
    assert sorted(person.person_name for person in after.values()) == ["P3", "Renamed"]
    assert cache.hits == 1  # P3 alone was still current


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_the_cache_returns_what_is_stored(api, helpers, seed):
    random = np.random.default_rng(seed)
    cache = PersonCache(api.services.database, max_bytes=6_000)
    persons = [api.person(f"P{n}", helpers.unit_vector(n)) for n in range(6)]
    for step in range(60):
        choice, person = random.integers(6), persons[random.integers(len(persons))]
        path = f"/v1/collections/default/persons/{person}"
        if choice == 0:
            api.ok("PATCH", path, json={"name": f"Named {step}"})
        elif choice == 1:
            api.template(person, helpers.unit_vector(100 + step))
        elif choice == 2 and len(persons) > 2:
            api.ok("DELETE", path)
            persons.remove(person)
        elif choice == 3:
            persons.append(api.person(f"Q{step}", helpers.unit_vector(200 + step)))
        numbers = random.permutation(np.arange(1, 60))[:20].tolist()
        assert _cached(api, cache, numbers) == stored_persons(api.services.database)(numbers)
        assert cache.bytes <= 6_000
    assert cache.hits > 50


def test_a_change_during_a_lookup_is_not_lost(api, helpers, monkeypatch):
    """What was read before a change is not kept when the change was applied meanwhile."""
    database = api.services.database
    cache = PersonCache(database)
    ann = api.person("Ann", helpers.unit_vector(1))
    api.person("Bob", helpers.unit_vector(2))
    ann_number, bob_number = _numbers(api)
    _cached(api, cache, [bob_number])  # an empty cache would not look into the feed
    lookup = _lookup(api, cache)
    original = database.execute

    def slow(statement, params):
        rows = original(statement, params)
        if "numbers" in params:
            monkeypatch.setattr(database, "execute", original)
            api.ok("PATCH", f"/v1/collections/default/persons/{ann}", json={"name": "Anna"})
            thread = threading.Thread(target=_cached, args=(api, cache, [bob_number]))
            thread.start()
            thread.join()
        return rows

    monkeypatch.setattr(database, "execute", slow)
    assert lookup([ann_number])[ann_number].person_name == "Ann"  # as it was when it began
    assert _cached(api, cache, [ann_number])[ann_number].person_name == "Anna"


def test_the_feed_of_an_older_database_empties_the_cache(api, helpers):
    cache = PersonCache(api.services.database)
    api.person("Ann", helpers.unit_vector(1))
    (number,) = _numbers(api)
    reached = position(api.services.database)
    assert _lookup(api, cache, reached + 1_000)([number])[number].person_name == "Ann"
    assert cache.bytes > 0
    _lookup(api, cache, reached)
    assert cache.bytes == 0


def test_a_restored_backup_empties_the_cache_wherever_its_feed_stands(api, helpers):
    cache = PersonCache(api.services.database)
    api.person("Ann", helpers.unit_vector(1))
    (number,) = _numbers(api)
    _cached(api, cache, [number])
    assert cache.bytes > 0
    api.services.journal.note_restored()
    _lookup(api, cache)
    assert cache.bytes == 0


def test_no_search_shows_an_erased_renamed_or_expired_person(api, helpers):
    probe = helpers.unit_vector(1)
    ann = api.person("Ann", probe)
    assert api.search(probe)["probes"][0]["person"]["name"] == "Ann"
    api.ok("PATCH", f"/v1/collections/default/persons/{ann}", json={"name": "Anna"})
    assert api.search(probe)["probes"][0]["person"]["name"] == "Anna"
    expires_at = "2026-11-22T12:00:10Z"
    api.ok("PATCH", f"/v1/collections/default/persons/{ann}", json={"expires_at": expires_at})
    assert api.search(probe)["probes"][0]["decision"] == "identified"
    api.clock.advance(10)
    assert api.search(probe)["probes"][0]["candidates"] == []
    api.ok("PATCH", f"/v1/collections/default/persons/{ann}", json={"expires_at": None})
    assert api.search(probe)["probes"][0]["decision"] == "identified"
    api.ok("DELETE", f"/v1/collections/default/persons/{ann}")
    assert api.search(probe)["probes"][0]["candidates"] == []
