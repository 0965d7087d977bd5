"""Single probes of one track are fused, and never mixed with another track."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from match_server.db.tables import TrackTemplate
from shared.encryption import Key
from shared.ids import new_id

on_sqlite = pytest.mark.backends("sqlite")  # nothing in it depends on the database

TRACK = "01a203dc-d1ba-7d44-99e4-4cda1934ccb9"


@pytest.fixture
def api(api, helpers):
    """Ann is enrolled, with a threshold of 0.7."""
    api.ok("PATCH", "/v1/collections/default", json={"policy": {"threshold": 0.7}})
    api.person("Ann", helpers.unit_vector(1))
    return api


@pytest.fixture
def shot(api, helpers):
    """A probe of the track whose template has this cosine to Ann's and to no other person's."""

    def make(seed, alike=0.62, *, ago_s=0.0, **more):
        vector = helpers.unit_vector(100 + seed, near=helpers.unit_vector(1), similarity=alike)
        captured = api.clock.now() - timedelta(seconds=ago_s)
        return helpers.probe_message(
            vector, captured, **{"track_id": TRACK, "sequence": seed, **more}
        )

    return make


def sent(api, *probes):
    return [(one["event"]["decision"], one["event"]["shots"]) for one in api.send(*probes)]


def test_shots_that_say_too_little_alone_give_a_name_together(api, shot):
    assert sent(api, shot(1)) == [("unknown", 1)]
    assert sent(api, shot(2)) == [("identified", 2)]
    (third,) = api.send(shot(3))
    event = third["event"]
    assert (event["person"]["name"], event["shots"], event["probes"]) == ("Ann", 3, 3)
    assert event["similarity"] == pytest.approx(event["candidates"][0]["similarity"], abs=1e-6)
    assert event["similarity"] > 0.75
    assert api.ok("GET", f"/v1/events/{event['id']}") == event


@on_sqlite
def test_a_list_of_probes_is_fused_as_if_they_had_come_one_by_one(api, shot):
    together = sent(api, shot(1), shot(2), shot(3))
    alone = [sent(api, shot(n, camera="back"))[0] for n in (1, 2, 3)]
    assert together == alone == [("unknown", 1), ("identified", 2), ("identified", 3)]


@on_sqlite
def test_a_track_that_went_over_to_another_person_is_not_mixed(api, shot, helpers):
    bob = helpers.unit_vector(2)
    api.person("Bob", bob)
    sent(api, shot(1), shot(2))
    (other,) = api.send(helpers.probe_message(bob, api.clock.now(), track_id=TRACK, sequence=3))
    event = other["event"]
    assert (event["person"]["name"], event["shots"]) == ("Bob", 1)
    assert event["similarity"] > 0.999, "as alike as by itself"
    (again,) = api.send(shot(4, sequence=4))
    assert again["event"]["candidates"][0]["similarity"] > 0.999, "a worse look changes nothing"


@on_sqlite
def test_what_is_fused_takes_the_place_of_what_one_shot_had_said(api, shot):
    assert sent(api, shot(1, 0.75)) == [("identified", 1)]
    (fused,) = api.send(shot(2, 0.5, shots=3))
    event = fused["event"]
    assert (event["decision"], event["person"], event["shots"]) == ("unknown", None, 3)
    assert api.ok("GET", "/v1/events")["total"] == 1


@on_sqlite
def test_another_track_that_shows_the_person_keeps_the_name_of_the_sighting(api, shot):
    sent(api, shot(1, 0.9, track_id=new_id()), shot(2, 0.75))
    assert sent(api, shot(3, 0.5, shots=3)) == [("identified", 1)]


@on_sqlite
def test_a_shot_that_comes_after_what_its_box_fused_later_adds_nothing(api, shot):
    (fused,) = api.send(shot(3, 0.8, shots=3))
    (late,) = api.send(shot(1, 0.75, ago_s=2))
    assert late["status"] == "accepted"
    kept = pytest.approx(fused["event"]["similarity"], abs=1e-4)  # in half precision
    assert late["event"]["similarity"] == kept
    assert (late["event"]["shots"], late["event"]["probes"]) == (3, 2)


@on_sqlite
def test_the_best_picture_of_a_track_stays(api, shot, helpers):
    good = {"score": 0.9, "factors": []}
    (first,) = api.send(shot(1, quality=good, thumbnail=helpers.thumbnail(1)))
    shown = api.call("GET", first["event"]["snapshot"]).data
    api.clock.advance(1)
    (second,) = api.send(shot(2, thumbnail=helpers.thumbnail(2)))
    event = second["event"]
    assert (event["decision"], event["quality"]["score"]) == ("identified", 0.9)
    assert event["captured_at"] == first["event"]["captured_at"]
    assert event["expires_at"] > first["event"]["expires_at"], "but it is live by the newest"
    assert api.call("GET", event["snapshot"]).data == shown
    snapshots = api.services.settings.data_dir / "snapshots"
    assert len([file for file in snapshots.rglob("*") if file.is_file()]) == 1


@on_sqlite
def test_a_second_delivery_is_not_fused_twice(api, shot):
    first = shot(1)
    sent(api, first)
    assert api.send(first)[0]["status"] == "duplicate"
    assert sent(api, shot(2)) == [("identified", 2)]


@on_sqlite
def test_a_track_is_forgotten_after_a_while_and_with_an_erasure(api, shot, helpers):
    sent(api, shot(1))
    api.clock.advance(61)
    assert sent(api, shot(2)) == [("unknown", 1)]
    bob = api.person("Bob")
    api.ok("DELETE", f"/v1/collections/default/persons/{bob}")
    with api.services.database.read() as session:
        assert session.scalars(select(TrackTemplate)).all() == []
    assert sent(api, shot(3)) == [("unknown", 1)]


@on_sqlite
def test_in_an_encrypted_collection_the_templates_of_tracks_are_sealed(make_api, helpers, tmp_path):
    (tmp_path / "keys").write_text(f"{Key.new().text}\n")
    api = make_api(encryption_key_file=tmp_path / "keys", default_collection="secret")
    api.ok("DELETE", "/v1/collections/secret")
    api.ok("POST", "/v1/collections", json={"name": "secret", "encrypted": True})
    vector = helpers.unit_vector(1)
    for sequence in (1, 2):
        (result,) = api.send(api.probe(vector, track_id=TRACK, sequence=sequence))
    assert result["event"]["shots"] == 2
    with api.services.database.read() as session:
        (row,) = session.scalars(select(TrackTemplate)).all()
    assert len(row.vector) > 2 * len(vector), "an envelope, not the float16 values"


def test_workers_that_get_shots_of_one_track_at_once_fuse_them_all(make_api, helpers):
    workers = [make_api() for _ in range(3)]
    ann = helpers.unit_vector(1)
    workers[0].person("Ann", ann)
    for worker in workers:
        worker.key("device")
    barrier = threading.Barrier(len(workers))

    def send(worker, first):
        for number in range(first, first + 2):
            barrier.wait(30)
            look = helpers.unit_vector(100 + number, near=ann, similarity=0.8)
            worker.send(worker.probe(look, track_id=TRACK, sequence=number))

    threads = [
        threading.Thread(target=send, args=(worker, 1 + 10 * place))
        for place, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (event,) = workers[0].ok("GET", "/v1/events")["items"]
    assert (event["shots"], event["probes"]) == (6, 6)
