"""Adopting a calibration over HTTP, and its effects on searches, policies and events."""

import json
from datetime import timedelta

import pytest
from sqlalchemy import update

from match_server.db.tables import Calibration

CALIBRATION = "/v1/collections/default/calibration"
COLLECTION = "/v1/collections/default"


@pytest.fixture
def file(normal_calibration, helpers):
    return json.loads(normal_calibration(helpers.MODEL).model_dump_json())


@pytest.fixture
def adopted(api, file):
    return api.ok("PUT", CALIBRATION, json=file)


def _policy(api, **policy):
    return api.ok("PATCH", COLLECTION, json={"policy": policy})


def test_without_a_calibration_there_are_no_probabilities_and_a_plain_threshold(api, helpers):
    api.person("Ann", helpers.unit_vector(1))
    result = api.search(helpers.unit_vector(1))
    assert result["probes"][0]["candidates"][0]["match_probability"] is None
    assert result["thresholds"] == {"default": 0.35}
    assert api.refused(404, "GET", CALIBRATION)["message"].count("match-server evaluate")
    point = api.ok("GET", COLLECTION)["operating_point"]
    assert point["threshold"] == 0.35
    assert point["fpir"] is None


def test_an_adopted_calibration_is_shown_with_its_date_and_limits(api, adopted, file, clock):
    assert adopted["seq"] > 0
    shown = api.ok("GET", CALIBRATION, role="viewer")
    assert shown["calibration"] == file
    assert shown["adopted_at"].startswith("2026-11-22T12:00:00")
    assert any("cannot be measured" in one for one in shown["limits"])
    point = api.ok("GET", COLLECTION)["operating_point"]
    assert 0 < point["fmr"] < 1e-5
    assert point["extrapolated"] is True


def test_probabilities_fill_searches_verifications_and_events(api, adopted, helpers):
    ann = helpers.unit_vector(1)
    api.person("Ann", ann)
    api.person("Bea", helpers.unit_vector(2))
    similar = helpers.unit_vector(3, near=ann, similarity=0.45)
    candidates = api.search(similar)["probes"][0]["candidates"]
    best, other = (one["match_probability"] for one in candidates)
    assert 0.9 < best < 1.0
    assert 0.0 <= other < 0.01
    event = api.send(api.probe(similar))[0]["event"]
    assert [one["match_probability"] for one in event["candidates"]] == [best, other]
    stored = api.ok("GET", "/v1/events")["items"][0]
    assert stored["candidates"] == event["candidates"]
    verified = api.ok(
        "POST",
        "/v1/verify",
        json={
            "pair": [
                {"template": helpers.encode(similar), "model_id": helpers.MODEL},
                {"person": candidates[0]["person"]["id"], "collection": "default"},
            ]
        },
    )
    assert verified["match_probability"] >= best


def test_the_more_alike_the_more_probable_and_the_less_so_among_more_people(api, adopted, helpers):
    ann = helpers.unit_vector(1)
    api.person("Ann", ann)

    def probability(similarity):
        probe = helpers.unit_vector(9, near=ann, similarity=similarity)
        return api.search(probe)["probes"][0]["candidates"][0]["match_probability"]

    alone = [probability(similarity) for similarity in (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)]
    assert alone == sorted(alone)
    assert alone[0] < 0.05  # forty persons cannot rule out more
    assert alone[-1] > 0.99
    before = probability(0.35)
    for number in range(20):
        api.person(f"P{number}", helpers.unit_vector(100 + number))
    assert probability(0.35) < before


def test_probabilities_that_were_said_stay_with_their_event(api, adopted, helpers):
    api.person("Ann", helpers.unit_vector(1))
    candidates = api.send(api.probe(helpers.unit_vector(1)))[0]["event"]["candidates"]
    api.ok("DELETE", CALIBRATION)
    assert api.ok("GET", "/v1/events")["items"][0]["candidates"] == candidates
    after = api.search(helpers.unit_vector(1))["probes"][0]["candidates"][0]
    assert after["match_probability"] is None


def test_a_wanted_fpir_moves_the_threshold_as_people_are_enrolled(api, adopted, helpers):
    set_to = _policy(api, target_fpir=0.01)
    assert set_to["policy"]["threshold"] is None
    assert set_to["policy"]["target_fpir"] == 0.01
    thresholds = []
    for number in range(30):
        api.person(f"P{number}", helpers.unit_vector(number))
        if number in (9, 14, 29):  # below ten, the FMR of 0.001 decides
            result = api.search(helpers.unit_vector(number))
            thresholds.append(result["thresholds"]["default"])
            point = api.ok("GET", COLLECTION)["operating_point"]
            assert point["threshold"] == thresholds[-1]
            assert point["templates"] == number + 1
            assert point["fpir"] == pytest.approx(0.01, rel=0.05)
            assert point["fmr"] == pytest.approx(0.01 / (number + 1), rel=0.05)
    assert thresholds == sorted(set(thresholds))


def test_the_derived_threshold_is_what_decides(api, adopted, helpers):
    """Searches and probes: the same similarity, before and after the gallery grew."""
    ann = helpers.unit_vector(1)
    api.person("Ann", ann)
    _policy(api, target_fpir=0.002)
    probe = helpers.unit_vector(9, near=ann, similarity=0.26)
    assert api.search(probe)["probes"][0]["decision"] == "identified"
    before = api.send(api.probe(probe))[0]["event"]
    crowd = api.person("Crowd")
    for number in range(40):
        api.template(crowd, helpers.unit_vector(200 + number))
    result = api.search(probe)
    assert result["probes"][0]["decision"] == "unknown"
    after = api.send(api.probe(probe, sequence=2))[0]["event"]
    assert (before["decision"], after["decision"]) == ("identified", "unknown")
    assert before["threshold"] < 0.26 < after["threshold"]
    assert after["threshold"] > result["thresholds"]["default"], "a track counts as two searches"
    point = api.ok("GET", COLLECTION)["operating_point"]
    assert point["threshold"] == result["thresholds"]["default"]
    own = api.search(probe, threshold=0.1)
    assert own["thresholds"] == {"default": 0.1}
    assert own["probes"][0]["decision"] == "identified"


@pytest.mark.parametrize(
    "policy", [{"target_fpir": 0.01}, {"false_alarms_per_day": 1, "traffic": 100}]
)
def test_a_derived_policy_needs_a_calibration(api, policy):
    body = api.refused(409, "PATCH", COLLECTION, json={"policy": policy})
    assert "match-server evaluate" in body["message"]
    assert body["details"]["reasons"] == ["no_calibration"]
    api.refused(409, "POST", "/v1/collections", json={"name": "new", "policy": policy})
    assert api.ok("GET", COLLECTION)["policy"]["threshold"] == 0.35
    api.refused(404, "GET", "/v1/collections/new")


def test_false_alarms_a_day_go_by_the_given_traffic(api, adopted, helpers):
    for number in range(10):  # with fewer, the FMR of 0.001 decides
        api.person(f"P{number}", helpers.unit_vector(number))
    point = _policy(api, false_alarms_per_day=2, traffic=400)["operating_point"]
    assert (point["traffic"], point["traffic_from"]) == (400, "given")
    assert point["fpir"] == pytest.approx(0.005, rel=0.05)
    assert point["false_alarms_per_day"] == pytest.approx(2, rel=0.05)
    busier = _policy(api, traffic=4000)["operating_point"]
    assert busier["threshold"] > point["threshold"]


def test_traffic_is_measured_from_the_unknown_of_the_last_days(api, adopted, helpers, clock):
    api.person("Ann", helpers.unit_vector(1))
    request = {"policy": {"false_alarms_per_day": 1}}
    body = api.refused(409, "PATCH", COLLECTION, json=request)
    assert body["details"]["reasons"] == ["no_traffic"]
    for number in range(24):
        probe = api.probe(helpers.unit_vector(100 + number), sequence=number + 1)
        again = {**api.probe(helpers.unit_vector(100 + number), sequence=100 + number)}
        api.send(probe, {**again, "track_id": probe["track_id"]})
        clock.advance(2 * 3600)
    api.send(api.probe(helpers.unit_vector(1), sequence=200))  # Ann is no stranger
    point = api.ok("PATCH", COLLECTION, json=request)["operating_point"]
    assert point["traffic"] == pytest.approx(12.0, rel=0.01)
    assert point["traffic_from"] == "measured"
    assert point["probes_per_track"] == 2.0
    assert api.ok("GET", COLLECTION)["policy"]["least_traffic"] == pytest.approx(12.0, rel=0.01)
    clock.advance(timedelta(days=30).total_seconds())
    quiet = api.ok("GET", COLLECTION)["operating_point"]
    assert quiet["traffic"] == pytest.approx(12.0, rel=0.01), "a quiet week loosens nothing"
    changed = _policy(api, traffic=50)["operating_point"]
    assert (changed["traffic"], changed["traffic_from"]) == (50, "given")
    measured = _policy(api, traffic=None)["operating_point"]
    assert measured["traffic_from"] == "measured"


def test_what_cameras_see_is_decided_as_of_two_searches_a_track(api, adopted, helpers):
    for seed in range(30):  # beyond what the least threshold protects
        api.person(f"Person {seed}", helpers.unit_vector(100 + seed))
    once = _policy(api, target_fpir=0.01)["operating_point"]
    event = api.send(api.probe(helpers.unit_vector(2)))[0]["event"]
    twice = _policy(api, target_fpir=0.005)["operating_point"]
    assert once["probes_per_track"] == 1.0
    assert event["threshold"] == pytest.approx(twice["threshold"], abs=1e-3)
    assert event["threshold"] > once["threshold"]


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({"threshold": 0.4, "target_fpir": 0.01}, "only one"),
        ({"target_fpir": 0.01, "false_alarms_per_day": 1}, "only one"),
        ({"false_alarms_per_day": 9, "traffic": 9}, "below `traffic`"),
        ({"traffic": 9}, "goes with"),
        ({"target_fpir": 0}, "greater than 0"),
        ({"target_fpir": 0.9}, "less than or equal to 0.5"),
        ({"false_alarms_per_day": -1}, "greater than 0"),
    ],
)
def test_a_policy_that_contradicts_itself_is_malformed(api, adopted, policy, why):
    body = api.refused(400, "PATCH", COLLECTION, json={"policy": policy})
    assert why in body["message"]
    body = api.refused(400, "POST", "/v1/collections", json={"name": "new", "policy": policy})
    assert why in body["message"]


def test_one_way_to_set_the_point_takes_the_place_of_another(api, adopted):
    _policy(api, false_alarms_per_day=1, traffic=100, margin=0.05)
    policy = _policy(api, threshold=0.4)["policy"]
    assert policy["threshold"] == 0.4
    assert policy["margin"] == 0.05
    assert policy["false_alarms_per_day"] is policy["traffic"] is policy["least_traffic"] is None
    policy = _policy(api, margin=0.1)["policy"]
    assert policy["threshold"] == 0.4


def test_the_calibration_of_another_model_is_refused(api, normal_calibration):
    other = json.loads(normal_calibration("other@1").model_dump_json())
    body = api.refused(409, "PUT", CALIBRATION, json=other)
    assert body["code"] == "model_mismatch"
    api.refused(404, "GET", CALIBRATION)


def test_a_file_that_was_changed_or_damaged_is_refused(api, file):
    changed = {**file, "tail": {**file["tail"], "scale": file["tail"]["scale"] / 2}}
    body = api.refused(422, "PUT", CALIBRATION, json=changed)
    assert body["details"]["reasons"] == ["damaged"]
    for damaged in ({**file, "version": 2}, {**file, "extra": 1}, {"format": "muster-calibration"}):
        api.refused(400, "PUT", CALIBRATION, json=damaged)
    assert api.call("PUT", CALIBRATION, data=b'{"format": "mus', headers={
        "Content-Type": "application/json"}).status_code == 400  # fmt: skip


def test_only_an_administrator_adopts(api, file):
    for role in ("viewer", "searcher", "enroller", "device"):
        api.refused(403, "PUT", CALIBRATION, role, json=file)
        api.refused(403, "DELETE", CALIBRATION, role)


def test_another_calibration_takes_its_place_and_both_are_remembered(api, adopted, people, helpers):
    rows, who = people.faces(1, 12, 4)
    second = people.calibrated(people.compare(rows, who), helpers.MODEL)
    api.clock.advance(60)
    api.ok("PUT", CALIBRATION, json=json.loads(second.model_dump_json()))
    lines = api.ok("GET", f"{CALIBRATION}s")["items"]
    assert [line["persons"] for line in lines] == [12, 40]
    assert lines[0]["retired_at"] is None
    assert lines[1]["retired_at"].startswith("2026-11-22T12:01:00")
    assert api.ok("GET", CALIBRATION)["calibration"]["sha256"] == second.sha256


def test_a_calibration_that_the_policy_rests_on_cannot_be_taken_away(api, adopted):
    _policy(api, target_fpir=0.01)
    body = api.refused(409, "DELETE", CALIBRATION)
    assert "`threshold`" in body["message"]
    _policy(api, threshold=0.4)
    api.ok("DELETE", CALIBRATION)
    api.refused(404, "GET", CALIBRATION)
    api.refused(404, "DELETE", CALIBRATION)


def test_another_worker_decides_by_what_was_adopted_at_once(api, make_services, file, helpers):
    other = make_services()
    api.person("Ann", helpers.unit_vector(1))
    assert other.collections.get("default").operating_point.fpir is None
    api.ok("PUT", CALIBRATION, json=file)
    _policy(api, target_fpir=0.02)
    here = api.ok("GET", COLLECTION)["operating_point"]
    assert other.collections.get("default").operating_point.model_dump(mode="json") == here


def test_boxes_are_told_the_threshold_of_the_moment(api, adopted, helpers):
    api.person("Ann", helpers.unit_vector(1))
    _policy(api, target_fpir=0.02)
    changes = api.ok("GET", "/v1/changes?collection=default&since=0")
    point = api.ok("GET", COLLECTION)["operating_point"]
    assert changes["gallery"]["threshold"] == pytest.approx(point["threshold"], abs=1e-6)


def test_a_collection_goes_with_its_calibrations(api, adopted, file):
    api.ok("DELETE", COLLECTION)
    api.ok("POST", "/v1/collections", json={"name": "default"})
    api.refused(404, "GET", CALIBRATION)
    assert api.ok("GET", f"{CALIBRATION}s")["total"] == 0


def test_the_example_of_the_documentation_is_a_file_that_can_be_adopted(api):
    document = api.ok("GET", "/openapi.json", role=None)
    call = document["paths"]["/v1/collections/{collection}/calibration"]["put"]
    example = call["requestBody"]["content"]["application/json"]["example"]
    adopted = api.ok("PUT", CALIBRATION, json=example)
    assert adopted["operating_point"]["extrapolated"] is True


def test_when_the_calibration_is_gone_nobody_is_named_and_nobody_created(api, adopted, helpers):
    """As after a change of the model, which leaves the policy as it was."""
    ann = helpers.unit_vector(1)
    api.person("Ann", ann)
    _policy(api, target_fpir=0.01)
    with api.services.database.write() as session:
        session.execute(update(Calibration).values(retired_at=api.clock.now()))
    result = api.search(helpers.unit_vector(2, near=ann, similarity=0.95))
    assert result["probes"][0]["decision"] == "unknown"
    assert result["thresholds"] == {"default": 1.0}
    vector = {"vector": helpers.encode(helpers.unit_vector(3)), "model_id": helpers.MODEL}
    request = {"templates": [vector], "create_person": True}
    body = api.refused(409, "POST", f"{COLLECTION}/search", json=request)
    assert "needs a calibration" in body["message"]
    assert api.ok("GET", COLLECTION)["persons"] == 1
