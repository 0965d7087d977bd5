"""Search, detection and verification, compared with a slow and simple oracle."""

import base64
import io

import numpy as np
import pytest

SEARCH = "/v1/collections/default/search"
PERSONS = "/v1/collections/default/persons"
RED, GREEN = (0, 0, 200), (0, 200, 0)


def test_candidates_are_persons_ranked_by_their_best_template(api, helpers):
    rng = np.random.default_rng(7)
    enrolled: dict[str, list[np.ndarray]] = {}
    for number in range(40):
        name = f"P{number:02}"
        person = api.person(name)
        vectors = [helpers.unit_vector(int(rng.integers(1 << 30))) for _ in range(number % 4 + 1)]
        for vector in vectors:
            api.template(person, vector)
        enrolled[name] = [vector.astype(np.float16).astype(np.float64) for vector in vectors]
    for probe in (helpers.unit_vector(5), helpers.unit_vector(6)):
        stored = probe.astype(np.float16).astype(np.float64)
        oracle = sorted(
            ((max(float(row @ stored) for row in rows), name) for name, rows in enrolled.items()),
            reverse=True,
        )
        answer = api.search(probe, limit=10)["probes"][0]["candidates"]
        assert [one["person"]["name"] for one in answer] == [name for _, name in oracle[:10]]
        np.testing.assert_allclose(
            [one["similarity"] for one in answer], [score for score, _ in oracle[:10]], atol=2e-6
        )
        assert [one["rank"] for one in answer] == list(range(1, 11))
        assert all(abs(one["distance"] - (1 - one["similarity"])) < 2e-6 for one in answer)
        assert {one["match_probability"] for one in answer} == {None}


def test_a_person_with_a_hundred_templates_takes_one_place_in_the_list(api, helpers):
    probe = helpers.unit_vector(1)
    many = api.person("Many")
    for seed in range(100):
        api.template(many, helpers.unit_vector(200 + seed, near=probe, similarity=0.8))
    api.person("Few", helpers.unit_vector(2, near=probe, similarity=0.3))
    assert api.names(probe, limit=2) == ["Many", "Few"]


def test_the_policy_decides_between_identified_unknown_and_ambiguous(api, helpers):
    probe = helpers.unit_vector(1)
    api.person("Ann", helpers.unit_vector(2, near=probe, similarity=0.40))
    api.person("Bob", helpers.unit_vector(3, near=probe, similarity=0.38))

    def decision(**more):
        answer = api.search(probe, **more)["probes"][0]
        return answer["decision"], answer["person"] and answer["person"]["name"]

    assert decision() == ("identified", "Ann")
    assert decision(limit=1) == ("identified", "Ann")
    assert decision(threshold=0.41) == ("unknown", None)
    api.ok("PATCH", "/v1/collections/default", json={"policy": {"margin": 0.05}})
    assert decision() == ("ambiguous", None)
    assert decision(limit=1) == ("ambiguous", None)
    api.ok("PATCH", "/v1/collections/default", json={"policy": {"threshold": 0.5}})
    assert decision() == ("unknown", None)


def test_unknown_still_shows_who_was_nearest_unless_a_threshold_cuts(api, helpers):
    probe = helpers.unit_vector(1)
    api.person("Ann", helpers.unit_vector(2, near=probe, similarity=0.2))
    assert api.names(probe) == ["Ann"]
    assert api.names(probe, threshold=0.3) == []
    assert api.names(probe, threshold=0.1) == ["Ann"]


def test_several_templates_are_answered_in_their_order(api, helpers):
    for seed, name in ((1, "Ann"), (2, "Bob")):
        api.person(name, helpers.unit_vector(seed))
    probes = [
        {"vector": helpers.encode(helpers.unit_vector(seed)), "model_id": helpers.MODEL}
        for seed in (2, 99, 1)
    ]
    answer = api.ok("POST", SEARCH, json={"templates": probes})
    names = [one["person"] and one["person"]["name"] for one in answer["probes"]]
    assert names == ["Bob", None, "Ann"]
    assert answer["searched"] == 2


def test_an_enrolled_template_finds_itself(api, helpers):
    person = api.person("Ann")
    template = api.template(person, helpers.unit_vector(1))["id"]
    answer = api.ok("POST", SEARCH, json={"template_id": template})
    assert answer["probes"][0]["candidates"][0]["similarity"] > 0.999
    api.refused(404, "POST", SEARCH, json={"template_id": "nothing"})


def test_an_empty_collection_answers_unknown(api, helpers):
    answer = api.search(helpers.unit_vector(1))
    assert answer["probes"][0]["decision"] == "unknown"
    assert answer["searched"] == 0


def test_a_picture_searches_its_largest_face_or_all_of_them(api, helpers):
    for colour, name in ((RED, "Red"), (GREEN, "Green")):
        api.person(name, helpers.unit_vector(int.from_bytes(bytes(colour), "big")))
    picture = helpers.paint((RED, 50), (GREEN, 90))

    def names(**fields):
        response = api.call(
            "POST", SEARCH, data={"image": (io.BytesIO(picture), "a.png"), **fields}
        )
        return [one["person"]["name"] for one in response.get_json()["probes"]]

    assert names() == ["Green"]
    assert names(detect_all="true") == ["Green", "Red"]


def test_a_search_waits_for_the_write_that_it_names(api, helpers):
    vector = helpers.unit_vector(1)
    seq = api.template(api.person("Ann"), vector)["seq"]
    assert api.search(vector, min_seq=seq)["seq"] >= seq
    body = {"templates": [{"vector": helpers.encode(vector), "model_id": helpers.MODEL}]}
    answer = api.refused(503, "POST", SEARCH, json={**body, "min_seq": seq + 1000})
    assert answer["details"]["seq"] == seq


def test_detect_lists_faces_with_quality_and_an_empty_picture_is_no_error(api, helpers):
    picture = base64.b64encode(helpers.paint((RED, 50), (GREEN, 90))).decode()
    faces = api.ok("POST", "/v1/detect", json={"image": picture})["faces"]
    assert [one["box"] for one in faces] == [[138, 10, 228, 100], [10, 10, 60, 60]]
    factor = faces[0]["quality"]["factors"][0]
    assert set(factor) == {"name", "value", "low", "high", "passed"}
    empty = base64.b64encode(helpers.paint()).decode()
    assert api.ok("POST", "/v1/detect", json={"image": empty}) == {"faces": []}


def test_detect_holds_the_factors_to_the_gate_that_is_named(api, helpers):
    dark = base64.b64encode(helpers.paint(((10, 20, 5), 50))).decode()

    def passed(**more):
        (face,) = api.ok("POST", "/v1/detect", json={"image": dark, **more})["faces"]
        return [factor["passed"] for factor in face["quality"]["factors"]]

    assert (passed(), passed(gate="passport"), passed(gate="off")) == ([False], [False], [True])
    api.refused(400, "POST", "/v1/detect", json={"image": dark, "gate": "open"})


def test_verify_compares_pictures_templates_and_persons(api, helpers):
    red = helpers.unit_vector(int.from_bytes(bytes(RED), "big"))
    ann = api.person("Ann", red)
    api.template(ann, helpers.unit_vector(3))
    picture = base64.b64encode(helpers.paint((RED, 50))).decode()
    template = {"template": helpers.encode(red), "model_id": helpers.MODEL}
    person = {"person": ann, "collection": "default"}
    for pair in ([{"image": picture}, template], [person, {"image": picture}], [template, person]):
        answer = api.ok("POST", "/v1/verify", json={"pair": pair})
        assert answer["decision"] == "match"
        assert answer["similarity"] > 0.999
        assert answer["match_probability"] is None
    other = {"template": helpers.encode(helpers.unit_vector(8)), "model_id": helpers.MODEL}
    assert api.ok("POST", "/v1/verify", json={"pair": [person, other]})["decision"] == "no_match"


def test_verify_takes_the_field_image_twice(api, helpers):
    def verify(*pictures):
        parts = [(io.BytesIO(picture), "a.png") for picture in pictures]
        return api.call("POST", "/v1/verify", data={"image": parts})

    red, green = helpers.paint((RED, 50)), helpers.paint((GREEN, 50))
    assert verify(red, red).get_json()["decision"] == "match"
    assert verify(red, green).get_json()["decision"] == "no_match"
    assert verify(red).status_code == 400


@pytest.mark.parametrize(("place", "name"), [(0, "first"), (1, "second")])
def test_verify_names_the_picture_in_which_no_face_is(api, helpers, place, name):
    pair = [{"image": base64.b64encode(helpers.paint((RED, 50))).decode()} for _ in range(2)]
    pair[place] = {"image": base64.b64encode(helpers.paint()).decode()}
    refusal = api.refused(422, "POST", "/v1/verify", json={"pair": pair})
    assert (refusal["code"], refusal["details"]["side"]) == ("no_face", name)
    assert refusal["message"].startswith(f"{name} picture: no face")


def test_a_similarity_is_never_more_than_1_nor_a_distance_less_than_0(api, helpers):
    """Rows rounded to half precision may be slightly longer than 1."""
    for seed in range(40):
        vector = helpers.unit_vector(seed)
        stored = vector.astype("<f2").astype("f8")
        if float(stored @ stored) > 1.00001:
            break
    api.template(api.person("Ann"), vector)
    search = {"templates": [{"vector": helpers.encode(vector), "model_id": helpers.MODEL}]}
    (probe,) = api.ok("POST", "/v1/collections/default/search", json=search)["probes"]
    (candidate,) = probe["candidates"]
    assert (candidate["similarity"], candidate["distance"]) == (1.0, 0.0)


def test_verify_of_two_models_is_a_mismatch(api, helpers):
    vector = helpers.encode(helpers.unit_vector(1))
    pair = [{"template": vector, "model_id": model} for model in (helpers.MODEL, "other@2")]
    assert api.refused(409, "POST", "/v1/verify", json={"pair": pair})["code"] == "model_mismatch"
