"""Decisions of users on sightings: relabelling, learning and undoing."""

import numpy as np
import pytest
from sqlalchemy import select

from match_server.db.tables import EventTemplate
from shared.encryption import Key

pytestmark = pytest.mark.backends("sqlite")


@pytest.fixture
def seen(api, helpers):
    """Anna is enrolled; a stranger has a sighting that identifies Anna."""
    base = helpers.unit_vector(1)
    stranger = helpers.unit_vector(2, near=base, similarity=0.5)
    for name, vector in (("anna", base), ("bert", helpers.unit_vector(99))):
        person = {"id": name, "name": name}
        api.ok("POST", "/v1/collections/default/persons", json=person)
        api.template(name, vector)

    def sighting(vector, **more):
        api.clock.advance(120)
        return api.send(api.probe(vector, **more))[0]["event"]["id"]

    return api, helpers, stranger, sighting


def _decide(api, event, status=201, role="enroller", **body):
    answer = api.call("POST", f"/v1/events/{event}/decision", role, json=body)
    assert answer.status_code == status, answer.get_data(as_text=True)
    return answer.get_json()


def _event(api, event):
    return api.ok("GET", f"/v1/events/{event}")


def _label(api, event):
    view = _event(api, event)
    name = None if view["person"] is None else view["person"]["id"]
    return view["decision"], name, view["review"]


def test_a_correction_relabels_earlier_sightings_that_are_alike_and_can_be_undone(seen):
    api, helpers, stranger, sighting = seen
    earlier = sighting(helpers.unit_vector(3, near=stranger, similarity=0.9))
    annas = sighting(helpers.unit_vector(4, near=helpers.unit_vector(1), similarity=0.9))
    corrected = sighting(stranger)
    assert _label(api, earlier) == ("identified", "anna", None)
    made = _decide(api, corrected, decision="person", person="bert")
    assert (made["person"]["id"], made["relabelled"], made["template_id"]) == ("bert", 1, None)
    assert _label(api, corrected) == ("identified", "bert", "person")
    assert _label(api, earlier) == ("identified", "bert", "like")
    assert _label(api, annas) == ("identified", "anna", None)
    undone = api.ok("DELETE", f"/v1/events/{corrected}/decision", "enroller")
    assert undone["restored"] == 2
    for event in (corrected, earlier):
        assert _label(api, event) == ("identified", "anna", None)
    assert api.call("GET", f"/v1/events/{corrected}/decision").status_code == 404


def test_wrong_and_discard_leave_nobody_and_what_probes_say_later_changes_nothing(seen):
    api, _, stranger, sighting = seen
    for kind in ("wrong", "discard"):
        event = sighting(stranger)
        _decide(api, event, decision=kind)
        track = _event(api, event)["track_id"]
        api.send(api.probe(stranger, track_id=track, quality={"score": 0.99, "factors": []}))
        assert _label(api, event) == ("unknown", None, kind)
        assert _event(api, event)["live"] is False


def test_only_an_enroller_decides_and_a_decision_needs_its_person(seen):
    api, helpers, stranger, sighting = seen
    event = sighting(stranger)
    for role in ("viewer", "searcher", "device"):
        _decide(api, event, status=403, role=role, decision="wrong")
    _decide(api, event, status=400, decision="person")
    _decide(api, event, status=400, decision="wrong", person="bert")
    _decide(api, event, status=404, decision="person", person="nobody")
    unknown = sighting(helpers.unit_vector(50))
    _decide(api, unknown, status=409, decision="confirmed")


def test_a_second_decision_takes_the_place_of_the_first(seen):
    api, _, stranger, sighting = seen
    event = sighting(stranger)
    _decide(api, event, decision="wrong")
    _decide(api, event, decision="person", person="bert")
    api.ok("DELETE", f"/v1/events/{event}/decision", "enroller")
    assert _label(api, event) == ("identified", "anna", None)


def _templates(api, person):
    return api.ok("GET", f"/v1/collections/default/persons/{person}")["templates"]


def test_nothing_is_learnt_where_the_collection_does_not_say_so(seen):
    api, helpers, _, sighting = seen
    event = sighting(helpers.unit_vector(4, near=helpers.unit_vector(1), similarity=0.9))
    assert _decide(api, event, decision="confirmed")["template_id"] is None
    assert _templates(api, "anna") == 1


@pytest.fixture
def learning(seen):
    api = seen[0]
    api.ok("PATCH", "/v1/collections/default", json={"policy": {"learn_references": 1}})
    return seen


def test_a_confirmed_sighting_becomes_a_reference_up_to_the_cap_and_undo_removes_it(learning):
    api, helpers, _, sighting = learning
    shots = [helpers.unit_vector(n, near=helpers.unit_vector(1), similarity=0.9) for n in (4, 5)]
    first, second = (sighting(shot) for shot in shots)
    made = _decide(api, first, decision="confirmed")
    assert made["template_id"] is not None
    assert _templates(api, "anna") == 2
    assert api.search(shots[0])["probes"][0]["candidates"][0]["similarity"] > 0.99
    assert "1 references" in _decide(api, second, decision="confirmed")["not_learnt"]
    undone = api.ok("DELETE", f"/v1/events/{first}/decision", "enroller")
    assert undone["template_id"] == made["template_id"]
    assert _templates(api, "anna") == 1


def test_a_poor_shot_somebody_else_and_a_lookalike_are_not_learnt(learning):
    api, helpers, _, sighting = learning
    anna, bert = helpers.unit_vector(1), helpers.unit_vector(99)
    poor = sighting(helpers.unit_vector(4, near=anna, similarity=0.9), quality={"score": 0.1})
    assert "quality" in _decide(api, poor, decision="confirmed")["not_learnt"]
    between = (anna + bert) / np.linalg.norm(anna + bert)
    both = sighting(between)
    assert "alike" in _decide(api, both, decision="person", person="anna")["not_learnt"]
    unlike = sighting(helpers.unit_vector(50))
    assert "unlike" in _decide(api, unlike, decision="person", person="anna")["not_learnt"]
    assert _templates(api, "anna") == 1


def test_erasing_a_person_takes_what_was_learnt_and_the_relabelled_name_with_it(learning):
    api, helpers, stranger, sighting = learning
    event = sighting(helpers.unit_vector(6, near=helpers.unit_vector(99), similarity=0.9))
    other = sighting(stranger)
    _decide(api, event, decision="confirmed")
    _decide(api, other, decision="person", person="bert")
    assert _templates(api, "bert") == 2
    gone = api.ok("DELETE", "/v1/collections/default/persons/bert")
    assert (gone["templates"], gone["events"]) == (2, 2)
    for one in (event, other):
        view = _event(api, one)
        assert (view["person"], view["person_erased"]) == (None, True)
        assert api.call("GET", f"/v1/events/{one}/decision").status_code == 404
    with api.services.database.read() as session:
        assert session.scalars(select(EventTemplate)).all() == []


def test_templates_of_sightings_rest_sealed_and_are_learnt_from_in_an_encrypted_collection(
    make_api, helpers, tmp_path
):
    file = tmp_path / "master.keys"
    file.write_text(f"{Key.new().text}\n")
    api = make_api(encryption_key_file=file)
    policy = {"threshold": 0.35, "learn_references": 2}
    collection = {"name": "secret", "encrypted": True, "policy": policy}
    api.ok("POST", "/v1/collections", json=collection)
    api.ok("POST", "/v1/devices", json={"name": "door-1", "collection": "secret"})
    api.ok("POST", "/v1/collections/secret/persons", json={"id": "anna", "name": "anna"})
    base, shot = (
        helpers.unit_vector(1),
        helpers.unit_vector(2, near=helpers.unit_vector(1), similarity=0.9),
    )
    body = {"template": helpers.encode(base), "model_id": helpers.MODEL}
    api.ok("POST", "/v1/collections/secret/persons/anna/templates", json=body)
    event = api.send(api.probe(shot))[0]["event"]["id"]
    with api.services.database.read() as session:
        (stored,) = session.scalars(select(EventTemplate.vector)).all()
    assert shot.astype("<f2").tobytes() not in stored
    assert _decide(api, event, decision="confirmed")["template_id"] is not None


def test_an_enroller_confirms_and_corrects_on_the_page_without_a_script(seen):
    api, _, stranger, sighting = seen
    event = sighting(stranger)
    path = f"/events/{event}/decide"
    assert "/edit" in api.client.post(path, data={"decision": "wrong"}).headers["Location"]
    api.client.post("/login", data={"key": api.key("viewer")})
    api.client.post("/edit", data={"key": api.key("enroller"), "next": f"/events/{event}"})
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    api.client.post(path, data={"decision": "wrong"}, headers=elsewhere)
    assert _label(api, event) == ("identified", "anna", None)
    page = api.client.post(path, data={"decision": "person", "who": "Bert"}, follow_redirects=True)
    assert "Somebody said that this is <bdi>bert</bdi>" in page.get_data(as_text=True)
    assert _label(api, event) == ("identified", "bert", "person")
    nobody = api.client.post(path, data={"decision": "person", "who": "Zoe"})
    assert (nobody.status_code, "Zoe" in nobody.get_data(as_text=True)) == (404, True)
    api.client.post(path, data={"decision": "undo"})
    assert _label(api, event) == ("identified", "anna", None)


def test_decisions_are_audited_and_watchers_are_told(seen):
    api, _, stranger, sighting = seen
    event = sighting(stranger)
    before = api.services.events.revision()
    _decide(api, event, decision="wrong")
    notices, _ = api.services.event_feed.after(before, 10)
    assert [(notice.event.id, notice.event.review) for notice in notices] == [(event, "wrong")]
    actions = [entry["action"] for entry in api.ok("GET", "/v1/audit?size=5")["items"]]
    assert "event_decided" in actions


def test_templates_of_sightings_are_kept_no_longer_than_thumbnails(seen):
    api, _, stranger, sighting = seen
    sighting(stranger, thumbnail=None)
    with api.services.database.read() as session:
        assert len(session.scalars(select(EventTemplate)).all()) == 1
    api.clock.advance(91 * 86_400)
    api.services.retention.run()
    with api.services.database.read() as session:
        assert session.scalars(select(EventTemplate)).all() == []
