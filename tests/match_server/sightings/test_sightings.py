"""Sightings: one person at one camera is one event, for any number and order of tracks."""

import itertools
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select, text

from match_server.db.tables import Event, EventTrack, Probe
from shared.ids import new_id

on_sqlite = pytest.mark.backends("sqlite")  # nothing in it depends on the database

FIELDS = ("decision", "probes", "tracks", "first_captured_at", "last_captured_at", "captured_at")


@pytest.fixture
def people(api, helpers):
    """Ann and Bob, enrolled; vectors by name."""
    vectors = {"Ann": helpers.unit_vector(1), "Bob": helpers.unit_vector(2)}
    for name, vector in vectors.items():
        api.person(name, vector)
    return vectors


@pytest.fixture
def seen(api, helpers, people):
    """Sends a probe with a similarity to a person, captured some seconds ago."""
    numbers = itertools.count(1)

    def send(name=None, track=None, *, alike=1.0, ago_s=0.0, **more):
        number = next(numbers)
        vector = helpers.unit_vector(1000 + number)
        if name is not None:
            vector = helpers.unit_vector(2000 + number, near=people[name], similarity=alike)
        captured = api.clock.now() - timedelta(seconds=ago_s)
        message = helpers.probe_message(
            vector, captured, track_id=track or new_id(), sequence=number, **more
        )
        (result,) = api.send(message)
        assert result["status"] == "accepted"
        return result["event"]

    return send


def events(api, **query):
    return api.ok("GET", "/v1/events", query_string=query)["items"]


def test_a_person_whose_track_is_lost_and_found_is_one_sighting(api, seen):
    first = seen("Ann", alike=0.6)
    api.clock.advance(20)
    second = seen("Ann", alike=0.9)
    assert second["id"] == first["id"]
    (event,) = events(api)
    assert (event["probes"], event["tracks"], event["similarity"] > 0.85) == (2, 2, True)
    assert event["first_captured_at"] == first["captured_at"]
    assert event["last_captured_at"] == event["captured_at"] == second["captured_at"]
    assert event["track_id"] == second["track_id"] != first["track_id"]
    assert [one["rank"] for one in event["candidates"]] == [1, 2]


def test_the_window_slides_with_the_last_look(api, seen):
    for _ in range(5):
        seen("Ann")
        api.clock.advance(29)
    assert [event["tracks"] for event in events(api)] == [5]
    api.clock.advance(2)
    seen("Ann")
    assert len(events(api)) == 2


@pytest.mark.parametrize("difference", ["camera", "device", "person"])
def test_another_camera_box_or_person_is_another_sighting(seen, api, difference):
    seen("Ann")
    if difference == "person":
        seen("Bob")
    else:
        seen("Ann", **{difference: "other"})
    assert len(events(api)) == 2


def test_a_stranger_who_was_out_of_sight_for_a_moment_is_one_sighting(api, seen, helpers):
    looks = [
        helpers.unit_vector(50 + n, near=helpers.unit_vector(7), similarity=0.85) for n in (0, 1, 2)
    ]
    visit = []
    for vector in looks:
        visit.append(seen(template=helpers.encode(vector)))
        api.clock.advance(20)
    assert {event["id"] for event in visit} == {visit[0]["id"]}
    (event,) = events(api)
    assert (event["decision"], event["tracks"], event["probes"]) == ("unknown", 3, 3)
    api.clock.advance(40)
    assert seen(template=helpers.encode(looks[0]))["id"] != event["id"]


@on_sqlite
@pytest.mark.parametrize("other", [{}, {"camera": "back"}, {"device": "door-2"}])
def test_strangers_who_look_different_or_stand_elsewhere_are_sightings_of_their_own(
    api, seen, helpers, other
):
    same = {"template": helpers.encode(helpers.unit_vector(7))}
    first, second = seen(**same), seen(**(other | same if other else {}))
    assert first["id"] != second["id"]
    assert [event["decision"] for event in events(api)] == ["unknown", "unknown"]


@on_sqlite
def test_a_stranger_who_is_named_on_a_second_track_was_that_person_before(
    api, seen, helpers, people
):
    unsure = helpers.unit_vector(60, near=people["Ann"], similarity=0.3)
    first = seen(template=helpers.encode(unsure))
    track = new_id()
    again = seen(template=helpers.encode(unsure), track=track)
    named = seen("Ann", track=track, shots=3)
    assert first["id"] == again["id"] == named["id"]
    assert (named["person"]["name"], named["tracks"]) == ("Ann", 2)


@on_sqlite
def test_with_a_window_of_zero_every_track_is_a_sighting(api, seen):
    api.ok("PATCH", "/v1/collections/default", json={"policy": {"sighting_s": 0}})
    seen("Ann")
    seen("Ann")
    assert len(events(api)) == 2


def test_an_unknown_track_that_turns_out_to_be_somebody_seen_becomes_part_of_that_sighting(
    api, seen
):
    ann = seen("Ann")
    track = new_id()
    stranger = seen(track=track)
    api.clock.advance(1)
    named = seen("Ann", track, alike=0.7)
    assert named["id"] == ann["id"]
    (event,) = events(api)
    assert (event["probes"], event["tracks"]) == (3, 2)
    gone = api.ok("GET", f"/v1/events/{stranger['id']}")
    assert (gone["merged_into"], gone["person"], gone["live"]) == (ann["id"], None, False)
    assert (gone["candidates"], gone["snapshot"]) == ([], None)
    later = seen(track=track)  # a bad look at the same track is still Ann's sighting
    assert (later["id"], later["decision"], later["probes"]) == (ann["id"], "identified", 4)
    snapshots = api.services.settings.data_dir / "snapshots"
    assert len([file for file in snapshots.rglob("*") if file.is_file()]) == 1


def test_a_late_probe_between_two_sightings_makes_them_one(api, seen):
    first = seen("Ann", alike=0.5)
    api.clock.advance(40)
    second = seen("Ann", alike=0.9)
    assert len(events(api)) == 2
    seen("Ann", alike=0.6, ago_s=20)
    (event,) = events(api)
    assert event["id"] == first["id"]
    assert (event["probes"], event["tracks"]) == (3, 3)
    assert event["captured_at"] == second["captured_at"]  # the most similar of all three
    assert event["live"]
    assert event["expires_at"] == second["expires_at"]
    assert api.ok("GET", f"/v1/events/{second['id']}")["merged_into"] == first["id"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@on_sqlite
def test_the_order_of_arrival_changes_nothing_of_what_is_kept(api, seen, order):
    ages = [50.0, 30.0, 10.0]
    alike = [0.6, 0.9, 0.7]
    tracks = [new_id() for _ in ages]
    for place in order:
        seen("Ann", tracks[place], alike=alike[place], ago_s=ages[place])
    (event,) = events(api)
    assert (event["probes"], event["tracks"], event["track_id"]) == (3, 3, tracks[1])
    with api.services.database.read() as session:
        assert set(session.scalars(select(Probe.event_id))) == {event["id"]}
        assert set(session.scalars(select(EventTrack.event_id))) == {event["id"]}


def test_a_track_that_turns_out_to_be_another_person_leaves_the_sighting(api, seen):
    track = new_id()
    ann = seen("Ann", alike=0.9)
    assert seen("Ann", track, alike=0.45)["id"] == ann["id"]
    bob = seen("Bob", track, alike=0.6)
    assert bob["id"] != ann["id"]
    assert bob["track_id"] == track
    now = {event["person"]["name"]: event["tracks"] for event in events(api)}
    assert now == {"Ann": 1, "Bob": 1}
    assert seen("Bob", track, alike=0.5)["id"] == bob["id"]
    assert seen("Ann")["id"] == ann["id"]


def test_a_track_that_began_the_sighting_can_leave_it_too(api, seen):
    track = new_id()
    ann = seen("Ann", track, alike=0.45)
    assert seen("Ann", alike=0.6)["id"] == ann["id"]
    bob = seen("Bob", track, alike=0.9)
    assert bob["id"] != ann["id"]
    assert (bob["track_id"], bob["person"]["name"]) == (track, "Bob")
    assert api.ok("GET", f"/v1/events/{ann['id']}")["person"]["name"] == "Ann"


@on_sqlite
def test_a_single_track_still_changes_its_name_for_a_better_look(api, seen):
    track = new_id()
    seen("Ann", track, alike=0.4)
    seen("Bob", track, alike=0.8)
    assert [event["person"]["name"] for event in events(api)] == ["Bob"]


@on_sqlite
def test_a_weaker_look_keeps_a_sighting_fresh(api, seen):
    first = seen("Ann", alike=0.9)
    api.clock.advance(20)
    again = seen("Ann", alike=0.6)
    assert again["captured_at"] == first["captured_at"]
    assert again["live"]
    assert again["expires_at"] > first["expires_at"]


def test_a_late_probe_never_makes_a_sighting_look_live(api, seen):
    late = seen("Ann", alike=0.9, ago_s=25)
    assert not late["live"]
    worse = seen("Ann", alike=0.5, ago_s=15)
    better = seen("Ann", alike=0.95, ago_s=12)
    assert {worse["id"], better["id"]} == {late["id"]}
    assert not worse["live"]
    assert not better["live"]
    assert better["expires_at"] < api.clock.now().isoformat()


def test_a_late_probe_does_not_make_a_live_sighting_last_longer_or_shorter(api, seen):
    live = seen("Ann", alike=0.5)
    after = seen("Ann", alike=0.9, ago_s=20)
    assert (after["id"], after["live"], after["expires_at"]) == (
        live["id"],
        True,
        live["expires_at"],
    )


@on_sqlite
def test_a_box_whose_clock_runs_ahead_lends_no_time_to_a_live_sighting(api, seen):
    live = seen("Ann", alike=0.5)
    ahead = seen("Ann", alike=0.9, ago_s=-25)
    assert ahead["id"] == live["id"]
    assert ahead["expires_at"] == live["expires_at"]


@on_sqlite
def test_a_late_better_look_at_another_person_is_not_live(api, seen):
    track = new_id()
    assert seen("Ann", track, alike=0.5)["live"]
    assert not seen("Bob", track, alike=0.9, ago_s=20)["live"]


def test_after_an_erasure_the_next_look_at_the_track_is_shown(api, seen):
    track = new_id()
    event = seen("Ann", track, alike=0.9)
    person = event["person"]["id"]
    api.ok("DELETE", f"/v1/collections/default/persons/{person}")
    after = seen(track=track)
    assert (after["id"], after["decision"], after["person_erased"]) == (
        event["id"],
        "unknown",
        False,
    )


def test_two_workers_that_see_one_person_on_two_tracks_at_once_keep_one_sighting(make_api, helpers):
    workers = [make_api() for _ in range(4)]
    ann = helpers.unit_vector(1)
    workers[0].person("Ann", ann)
    for worker in workers:
        worker.key("device")
    barrier = threading.Barrier(len(workers))
    answers = []

    def send(worker, first):
        probes = [worker.probe(ann, sequence=first + n) for n in range(5)]
        for probe in probes:
            barrier.wait(30)
            answers.append(worker.send(probe)[0]["event"]["id"])

    threads = [
        threading.Thread(target=send, args=(worker, 1 + 100 * place))
        for place, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 20
    assert len(set(answers)) == 1
    (event,) = events(workers[0])
    assert (event["probes"], event["tracks"]) == (20, 20)


def test_the_same_probe_sent_to_two_workers_at_once_is_counted_once(make_api, helpers):
    workers = [make_api() for _ in range(2)]
    workers[0].person("Ann", helpers.unit_vector(1))
    for worker in workers:
        worker.key("device")
    barrier = threading.Barrier(2)
    results = []

    def send(worker, probes):
        for probe in probes:
            barrier.wait(30)
            results.append(worker.send(probe)[0]["status"])

    probes = [workers[0].probe(helpers.unit_vector(1), sequence=n) for n in range(1, 11)]
    threads = [threading.Thread(target=send, args=(worker, probes)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == ["accepted"] * 10 + ["duplicate"] * 10
    with workers[0].services.database.read() as session:
        assert [event.probes for event in session.scalars(select(Event))] == [10]


def test_a_track_and_a_person_are_looked_up_by_an_index(make_services):
    """Otherwise each probe would read all stored sightings."""
    services = make_services()
    queries = (
        "SELECT event_id FROM event_tracks WHERE track_id IN ('a', 'b')",
        "SELECT id FROM events WHERE person_number IN (1, 2) AND camera IN ('a', 'b') "
        "AND last_captured_at >= '2026-01-01'",
    )
    with services.database.read() as session:
        if services.database.is_sqlite:
            plans = [
                session.execute(text(f"EXPLAIN QUERY PLAN {query}")).all() for query in queries
            ]
        else:
            session.execute(text("SET LOCAL enable_seqscan = off"))
            plans = [session.execute(text(f"EXPLAIN {query}")).all() for query in queries]
    assert "pk_event_tracks" in str(plans[0]) or "sqlite_autoindex_event_tracks" in str(plans[0])
    assert "ix_events_sighting" in str(plans[1])


A_YEAR_S = 365 * 24 * 3600.0


@pytest.mark.parametrize("jump_s", [A_YEAR_S, -A_YEAR_S])
def test_a_clock_that_jumps_and_comes_back_makes_no_other_sightings_one(api, seen, jump_s):
    """The device's clock jumps during one track, before its end or after its beginning."""
    track, later = new_id(), new_id()
    seen("Ann", track)
    seen("Ann", track, ago_s=-jump_s)
    seen("Ann", later, ago_s=-jump_s)
    seen("Ann", later)
    (first,) = {event["id"] for event in events(api)}
    ids = [first]
    for _ in range(3):
        api.clock.advance(2 * 3600)
        ids.append(seen("Ann")["id"])
    ids.append(seen("Ann", ago_s=3 * 24 * 3600)["id"])  # of a backlog
    assert len(set(ids)) == 5
    assert all(event["last_captured_at"] <= event["received_at"] for event in events(api))


@on_sqlite
def test_a_sighting_from_before_that_reaches_a_year_ahead_takes_nothing_in(api, seen):
    ahead = seen("Ann")["id"]
    with api.services.database.write() as session:
        row = session.get(Event, ahead)
        row.last_captured_at += timedelta(days=365)
    api.clock.advance(3600)
    assert seen("Ann")["id"] != ahead


@on_sqlite
@pytest.mark.parametrize("hours", [3, -3])
def test_a_box_whose_clock_is_hours_off_joins_its_looks_and_opens_no_door(
    api, seen, helpers, hours
):
    """The sightings are not live; after the clock is corrected they are."""
    off_s = hours * 3600.0
    api.ok("POST", "/v1/devices", json={"name": "door-1"})
    looks = []
    for _ in range(2):
        looks.append(seen("Ann", ago_s=-off_s))
        api.clock.advance(10)
    assert looks[0]["id"] == looks[1]["id"]
    assert not any(one["live"] for one in looks)
    at = (api.clock.now() + timedelta(seconds=off_s)).isoformat()
    track = {"device": "door-1", "camera": "front", "track_id": new_id(), "state": "began"}
    track |= {"at": at, "began_at": at, "in_view": 1, "probes": 1}
    assert api.ok("POST", "/v1/tracks", "device", json=track) == {"taken": 0, "late": 1}
    assert api.ok("GET", "/v1/presence")["items"] == []
    api.clock.advance(60)
    right = seen("Ann")
    assert right["live"]
    assert right["id"] != looks[0]["id"]


@on_sqlite
def test_a_probe_that_is_sent_again_after_its_expiry_is_not_said_to_be_live(api, helpers, people):
    probe = api.probe(people["Ann"])
    assert api.send(probe)[0]["event"]["live"]
    api.clock.advance(3600)
    (again,) = api.send(probe)
    assert (again["status"], again["event"]["live"]) == ("duplicate", False)
