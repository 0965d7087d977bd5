"""A pack's reference calibration: the policy of new collections, and of older ones."""

import json

import pytest
from sqlalchemy import insert, text, update

from match_server.calibration.calibration import Calibration
from match_server.db.database import Database
from match_server.db.migrations import migrate
from match_server.db.tables import Collection
from match_server.evaluation.measurement import as_reference
from match_server.process.doctor import examine
from match_server.schemas.calibrations import CalibrationFile
from match_server.services.audit.chain import append_notes
from match_server.services.change_feed import record
from match_server.services.policy.operating_point_view import strangers_named
from models.packs.references import reference_of, threshold_of

COMPACT = "compact-mobilefacenet-512@1"
COLLECTION = "/v1/collections/default"
CALIBRATION = f"{COLLECTION}/calibration"


@pytest.fixture
def reference(normal_calibration, helpers):
    file = as_reference(normal_calibration(helpers.MODEL), "drawn numbers")
    return file.model_dump_json().encode()


@pytest.fixture
def served(make_api, reference):
    return make_api(reference=reference)


def _grow(api, people):
    """Sets the counts of the collections to so many people with one template each."""
    with api.services.database.write() as session:
        session.execute(update(Collection).values(template_count=people, person_count=people))
        record(session, 1, "collection_updated", "default", api.clock.now())  # as any write does


def _point(api):
    return api.ok("GET", COLLECTION)["operating_point"]


def test_a_new_collection_names_one_stranger_of_a_hundred_at_any_size(served):
    view = served.ok("GET", COLLECTION)
    assert (view["policy"]["target_fpir"], view["policy"]["threshold"]) == (0.01, None)
    assert view["policy"]["margin"] == 0.03
    thresholds = []
    for people in (1, 10, 100, 10_000):
        _grow(served, people)
        point = _point(served)
        assert point["calibration_from"] == "reference"
        assert point["warning"] is None
        assert point["fpir"] == pytest.approx(0.01 if people > 1 else 0.001, rel=0.1)
        thresholds.append(point["threshold"])
    assert thresholds == sorted(thresholds)
    assert "reference, measured on drawn numbers" in point["explanation"]


def test_what_is_given_for_a_new_collection_counts(served):
    for policy in ({"threshold": 0.4}, {"target_fpir": 0.05}):
        made = served.ok("POST", "/v1/collections", json={"name": "own", "policy": policy})
        assert {name: made["policy"][name] for name in policy} == policy
        assert made["policy"]["margin"] == 0.0
        served.ok("DELETE", "/v1/collections/own")
    made = served.ok("POST", "/v1/collections", json={"name": "own", "policy": {"margin": 0.1}})
    assert (made["policy"]["target_fpir"], made["policy"]["margin"]) == (0.01, 0.1)


def test_probabilities_are_there_from_the_first_person_on(served, helpers):
    served.person("Ann", helpers.unit_vector(1))
    (probe,) = served.search(helpers.unit_vector(1))["probes"]
    assert probe["decision"] == "identified"
    assert probe["candidates"][0]["match_probability"] > 0.9


def test_ones_own_calibration_takes_the_place_of_the_reference_and_gives_it_back(
    served, normal_calibration, helpers
):
    shown = served.ok("GET", CALIBRATION)
    assert (shown["calibration_from"], shown["adopted_at"]) == ("reference", None)
    assert any("not a measurement of this operator's cameras" in one for one in shown["limits"])
    own = json.loads(normal_calibration(helpers.MODEL).model_dump_json())
    adopted = served.ok("PUT", CALIBRATION, json=own)
    assert adopted["calibration_from"] == "own"
    assert adopted["operating_point"]["calibration_from"] == "own"
    assert served.ok("GET", COLLECTION)["policy"]["target_fpir"] == 0.01
    served.ok("DELETE", CALIBRATION)
    assert _point(served)["calibration_from"] == "reference"


def test_a_calibration_written_before_there_were_references_is_still_whole(normal_calibration):
    written = json.loads(normal_calibration().model_dump_json())
    del written["reference"]
    file = CalibrationFile.model_validate(written)
    assert file.sha256 == file.digest()


@pytest.mark.parametrize("stored", [{}, {"margin": 0.05}, {"threshold": 0.35, "gate": "off"}])
def test_a_collection_of_an_older_version_keeps_its_threshold(
    settings, make_services, reference, stored, clock, helpers
):
    database = Database(settings.sqlalchemy_url, append_notes)
    migrate(database, "0008")
    with database.connection() as connection:  # a write needs tables of this version
        connection.execute(text("DELETE FROM collections"))
        connection.execute(
            insert(Collection.__table__).values(
                name="default", model_id=helpers.MODEL, dimension=512, template_count=2000,
                person_count=2000, generation=0, encrypted=False, metadata={}, policy=stored,
                created_at=clock.now(),
            )
        )  # fmt: skip
    migrate(database)
    database.close()
    services = make_services(reference=reference)
    view = services.collections.get("default")
    assert view.policy.threshold == 0.35
    assert view.operating_point.threshold == 0.35
    assert view.policy.margin == stored.get("margin", 0.0)


def test_a_fixed_threshold_is_warned_of_at_the_size_at_which_it_names_strangers(
    served, caplog, settings, monkeypatch
):
    served.ok("PATCH", COLLECTION, json={"policy": {"threshold": 0.2}})
    assert _point(served)["warning"] is None
    _grow(served, 500)
    point = _point(served)
    assert point["fpir"] == pytest.approx(0.657, abs=0.02)  # 1 - (1 - 2.14e-3)^500
    explanation = "0.2 with 500 people: 2 strangers of 3 are given a name"
    assert explanation in point["warning"]
    served.services.policy_warnings.log()
    assert explanation in caplog.text
    monkeypatch.setattr("match_server.process.doctor.build_services", lambda _: served.services)
    (check,) = [one for one in examine(settings) if one.name == "thresholds"]
    assert not check.ok
    assert explanation in check.message


@pytest.mark.parametrize(
    ("fpir", "words"),
    [(0.68, "2 strangers of 3"), (0.01, "1 stranger of 100"), (0.5, "1 stranger of 2"),
     (0.999, "all strangers"), (0.0, "no stranger")],
)  # fmt: skip
def test_rates_are_said_in_strangers(fpir, words):
    assert strangers_named(fpir) == words


def test_without_a_reference_the_manifest_decides_and_that_is_said(api):
    point = _point(api)
    assert (point["threshold"], point["calibration_from"]) == (0.35, None)
    assert "no measured threshold" in point["warning"]


def test_a_damaged_reference_is_not_used(make_api, reference, caplog):
    api = make_api(reference=reference.replace(b'"gate":"doorway"', b'"gate":"off"'))
    assert api.ok("GET", COLLECTION)["policy"]["threshold"] == 0.35
    assert "damaged reference calibration" in caplog.text


def test_a_verification_asks_for_one_false_match_in_ten_thousand(served, helpers, normal):
    ann = helpers.unit_vector(1)
    person = served.person("Ann", ann)
    side = {"person": person, "collection": "default"}
    probe = {"template": helpers.encode(ann), "model_id": helpers.MODEL}
    single = served.ok("POST", "/v1/verify", json={"pair": [probe, side]})
    assert single["threshold"] == pytest.approx(normal.threshold_for(1e-4).similarity, abs=1e-3)
    assert single["match_probability"] > 0.9
    served.template(person, helpers.unit_vector(2, near=ann, similarity=0.8))
    assert (
        served.ok("POST", "/v1/verify", json={"pair": [probe, side]})["threshold"]
        > (single["threshold"])
    )
    alone = served.ok("POST", "/v1/verify", json={"pair": [probe, probe]})
    assert alone["threshold"] == single["threshold"]
    served.ok("PATCH", COLLECTION, json={"policy": {"threshold": 0.2}})
    assert served.ok("POST", "/v1/verify", json={"pair": [probe, side]})["threshold"] == 0.2


def test_over_several_collections_the_promise_holds_for_all_of_them_together(served, helpers):
    served.ok("POST", "/v1/collections", json={"name": "guests"})
    _grow(served, 100)
    probe = [{"vector": helpers.encode(helpers.unit_vector(3)), "model_id": helpers.MODEL}]
    both = served.ok(
        "POST", "/v1/search", json={"templates": probe, "collections": ["default", "guests"]}
    )
    _grow(served, 200)
    alone = served.search(helpers.unit_vector(3))
    assert both["thresholds"] == dict.fromkeys(
        ["default", "guests"], alone["thresholds"]["default"]
    )


def test_the_packs_calibration_is_whole_and_measured_on_many_people():
    file = CalibrationFile.model_validate_json(reference_of(COMPACT))
    assert file.sha256 == file.digest()
    assert file.model_id == COMPACT
    assert file.data.persons >= 1000
    assert file.reference is not None
    calibration = Calibration(file)
    # As measured on other people of the same set; see docs/decisions/0033.
    assert calibration.threshold_for(1e-4).similarity == pytest.approx(0.42, abs=0.015)
    assert calibration.fmr_at(0.45) == pytest.approx(3.8e-5, rel=0.3)
    assert threshold_of(COMPACT) == 0.45
    assert reference_of("nobody@1") is None
