"""Probes: stored once, as sightings that show their best probe; late probes are not live."""

import json
from datetime import datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import select

from match_server.db.tables import Device, Probe


def _events(api, **query):
    return api.ok("GET", "/v1/events", query_string=query)["items"]


def test_a_probe_becomes_an_event_with_a_name(api, helpers):
    vector = helpers.unit_vector(1)
    ann = api.person("Ann", vector)
    probe = api.probe(vector)
    (result,) = api.send(probe)
    assert (result["status"], result["probe_id"]) == ("accepted", probe["probe_id"])
    event = result["event"]
    assert event["person"] == {"id": ann, "name": "Ann"}
    assert event["decision"] == "identified"
    assert event["similarity"] > 0.999
    assert (event["live"], event["camera"], event["device"]) == (True, "front", "door-1")
    assert event["box"] == probe["box"]
    assert api.ok("GET", f"/v1/events/{event['id']}") == event
    picture = api.call("GET", event["snapshot"])
    assert picture.content_type == "image/jpeg"
    assert picture.data.startswith(b"\xff\xd8\xff")


def test_a_single_probe_needs_no_list(api, helpers):
    answer = api.ok("POST", "/v1/probes", "device", json=api.probe(helpers.unit_vector(1)))
    assert answer["probes"][0]["event"]["decision"] == "unknown"


def test_a_second_delivery_is_a_duplicate_and_changes_nothing(api, helpers):
    probe = api.probe(helpers.unit_vector(1))
    first, again = api.send(probe, probe)
    (later,) = api.send(probe)
    assert [first["status"], again["status"], later["status"]] == [
        "accepted",
        "duplicate",
        "duplicate",
    ]
    assert later["event"] == first["event"]
    (event,) = _events(api)
    assert event["probes"] == 1


def test_a_better_probe_of_the_same_track_gives_the_event_a_name(api, helpers):
    ann = helpers.unit_vector(1)
    api.person("Ann", ann)
    track = "01a203dc-d1ba-7d44-99e4-4cda1934ccb9"
    api.send(api.probe(helpers.unit_vector(2), track_id=track))
    api.clock.advance(2)
    blurred = helpers.unit_vector(3, near=ann, similarity=0.6)
    api.send(api.probe(blurred, track_id=track, sequence=2, thumbnail=helpers.thumbnail(2)))
    (event,) = _events(api)
    assert (event["decision"], event["person"]["name"]) == ("identified", "Ann")
    assert event["probes"] == 2
    assert event["first_captured_at"] < event["last_captured_at"] == event["captured_at"]
    shown = api.call("GET", event["snapshot"]).data
    api.clock.advance(2)
    api.send(api.probe(helpers.unit_vector(4), track_id=track, sequence=3))
    (after,) = _events(api)
    assert (after["decision"], after["similarity"]) == ("identified", event["similarity"])
    assert after["probes"] == 3
    assert after["last_captured_at"] > after["captured_at"]
    assert api.call("GET", after["snapshot"]).data == shown
    snapshots = api.services.settings.data_dir / "snapshots"
    assert len([file for file in snapshots.rglob("*") if file.is_file()]) == 1


def test_the_same_track_before_another_camera_is_another_sighting(api, helpers):
    track = "01a203dc-d1ba-7d44-99e4-4cda1934ccb9"
    for camera in ("front", "back"):
        api.send(api.probe(helpers.unit_vector(1), track_id=track, camera=camera))
    assert {event["camera"] for event in _events(api)} == {"front", "back"}


@pytest.mark.parametrize(("age_s", "live"), [(0, True), (10, True), (11, False), (-11, False)])
def test_an_event_is_live_only_near_its_capture(api, helpers, age_s, live):
    captured = api.clock.now() - timedelta(seconds=age_s)
    message = helpers.probe_message(helpers.unit_vector(1), captured)
    event = api.send(message)[0]["event"]
    assert event["live"] is live
    expires_at = datetime.fromisoformat(event["expires_at"])
    ends_at = min(captured, api.clock.now()) + timedelta(seconds=10)
    assert (
        timedelta(0) <= ends_at - expires_at < timedelta(milliseconds=1)
    )  # the shown expiry is never later


def test_the_candidate_list_of_an_event_is_as_long_as_the_policy_says(api, helpers):
    api.ok("PATCH", "/v1/collections/default", json={"policy": {"candidates": 2}})
    for seed in range(4):
        api.person(f"P{seed}", helpers.unit_vector(seed))
    event = api.send(api.probe(helpers.unit_vector(2)))[0]["event"]
    assert [one["rank"] for one in event["candidates"]] == [1, 2]
    assert event["candidates"][0]["person"]["name"] == "P2"


def test_a_bad_probe_is_refused_by_itself_and_the_others_are_kept(api, helpers):
    good = api.probe(helpers.unit_vector(1))
    foreign = {**api.probe(helpers.unit_vector(2)), "model_id": "other@2"}
    broken = {**api.probe(helpers.unit_vector(3)), "template": "AAAA"}
    unknown_field = {**api.probe(helpers.unit_vector(4)), "extra": 1}
    results = api.send(foreign, good, broken, unknown_field, {"probe_id": "x"})
    assert [one["status"] for one in results] == [
        "refused",
        "accepted",
        "refused",
        "refused",
        "refused",
    ]
    codes = [one["code"] for one in results]
    assert codes == ["model_mismatch", None, "malformed", "malformed", "malformed"]
    assert results[4]["probe_id"] == "x"
    assert all(one["message"] for one in results if one["status"] == "refused")
    assert len(_events(api)) == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"sequence": 2**63},
        {"captured_at": "9999-12-31T23:59:59Z"},
        {"captured_at": "9999-12-31T23:59:59-12:00"},
        {"captured_at": "0001-01-01T00:00:00+12:00"},
    ],
)
def test_a_number_or_moment_that_cannot_be_stored_holds_no_other_probe_up(api, helpers, odd):
    poison = {**api.probe(helpers.unit_vector(1)), **odd}
    results = api.send(poison, api.probe(helpers.unit_vector(2)))
    assert [one["status"] for one in results] == ["refused", "accepted"]
    assert results[0]["code"] == "malformed"


@pytest.mark.parametrize("body", ["", "[]", "3", '"x"', "[1", "null", "[[]]"])
def test_a_body_that_is_no_probe_is_malformed_or_refused(api, body):
    response = api.call("POST", "/v1/probes", data=body, content_type="application/json")
    if body == "[[]]":
        assert response.get_json()["probes"][0]["status"] == "refused"
    else:
        assert response.status_code == 400


def test_more_probes_than_allowed_are_refused_at_once(api, helpers):
    probes = [api.probe(helpers.unit_vector(1))] * 257
    api.refused(400, "POST", "/v1/probes", "device", json=probes)
    assert _events(api) == []


def test_a_key_tied_to_a_device_speaks_for_it_alone(api, helpers):
    key = api.ok("POST", "/v1/keys", json={"role": "device", "device": "door-2"})["key"]
    headers = {"Authorization": f"Bearer {key}"}
    mine = api.probe(helpers.unit_vector(1), device="door-2")
    assert api.call("POST", "/v1/probes", None, headers=headers, json=mine).status_code == 200
    other = api.probe(helpers.unit_vector(1), device="door-1")
    assert api.call("POST", "/v1/probes", None, headers=headers, json=other).status_code == 403


def test_gaps_in_a_devices_numbers_are_counted_and_filled_by_late_probes(api, helpers, caplog):
    for sequence in (1, 2, 6):
        api.send(api.probe(helpers.unit_vector(1), sequence=sequence))
    assert _missing(api) == 3
    assert any(record.message == "Probes are missing" for record in caplog.records)
    api.send(api.probe(helpers.unit_vector(1), sequence=4))
    assert _missing(api) == 2


def _missing(api):
    with api.services.database.read() as session:
        device = session.scalars(select(Device)).one()
    return device.last_sequence - device.first_sequence + 1 - device.received


def test_probes_wait_for_a_missing_collection_instead_of_being_refused(api, helpers):
    api.ok("DELETE", "/v1/collections/default")
    api.refused(503, "POST", "/v1/probes", "device", json=api.probe(helpers.unit_vector(1)))


def test_a_probe_is_sent_again_when_its_collection_was_replaced_during_the_search(
    api, helpers, monkeypatch
):
    probe = api.probe(helpers.unit_vector(1))
    caught_up = api.services.galleries.caught_up

    def replace_meanwhile(*arguments):
        reached = caught_up(*arguments)
        api.ok("DELETE", "/v1/collections/default")
        api.ok("POST", "/v1/collections", json={"name": "default"})
        monkeypatch.undo()
        return reached

    monkeypatch.setattr(api.services.galleries, "caught_up", replace_meanwhile)
    api.refused(503, "POST", "/v1/probes", "device", json=probe)
    assert _events(api) == []
    assert not [f for f in api.services.settings.data_dir.rglob("snapshots/*/*") if f.is_file()]
    assert api.send(probe)[0]["status"] == "accepted"


def _files_with(api, vector):
    """The files in the data folder that contain this template, weighted by a probe's quality."""
    sent = vector.astype("<f2").astype(np.float32)
    packed = (np.float32(0.8) * sent).astype("<f2").tobytes()[:64]
    files = [file for file in api.services.settings.data_dir.iterdir() if file.is_file()]
    return [file.name for file in files if packed in file.read_bytes()]


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("fuse_tracks_s", [0, 60])
def test_no_template_of_a_probe_is_kept_for_longer_than_the_setting_says(
    make_api, helpers, fuse_tracks_s
):
    api = make_api(fuse_tracks_s=fuse_tracks_s)
    vector = helpers.unit_vector(1)
    api.send(api.probe(vector))
    with api.services.database.read() as session:
        assert session.scalars(select(Probe)).one().decision == "unknown"
    assert bool(_files_with(api, vector)) is bool(fuse_tracks_s)
    api.clock.advance(61)
    api.services.housekeeper.tick()
    api.services.close()
    assert _files_with(api, vector) == []


def test_events_are_filtered_and_paged_newest_first(api, helpers):
    ann = api.person("Ann", helpers.unit_vector(1))
    for camera, seed in (("front", 1), ("back", 2), ("back", 1)):
        api.send(api.probe(helpers.unit_vector(seed), camera=camera))
        api.clock.advance(60)
    assert [one["camera"] for one in _events(api)] == ["back", "back", "front"]
    assert len(_events(api, camera="back")) == 2
    assert len(_events(api, person=ann)) == 2
    assert len(_events(api, decision="unknown", camera="back")) == 1
    moment = (api.clock.now() - timedelta(seconds=90)).isoformat()
    assert len(_events(api, since=moment)) == 1
    assert len(_events(api, until=moment)) == 2
    assert len(_events(api, size=1, page=2)) == 1


def test_a_snapshot_that_is_no_jpeg_is_refused(api, helpers):
    probe = api.probe(helpers.unit_vector(1), thumbnail="PHN2Zz4=")
    assert api.send(probe)[0]["status"] == "refused"
    assert json.dumps(_events(api)) == "[]"
