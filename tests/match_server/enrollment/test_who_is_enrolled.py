"""Enrollment of the intended person: several faces, pictures of others, detections of no face."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest

from match_server.commands.importing import import_
from match_server.schemas.batches import BatchQuery
from match_server.services.enrollment.advice import advice
from match_server.services.policy.reference_calibrations import ReferenceCalibrations

RED, GREEN, BLUE = (0, 0, 200), (0, 200, 0), (200, 0, 0)
GRAY = (120, 120, 120)  # a painted square of this colour is not certainly a face


pytestmark = pytest.mark.backends("sqlite")


@dataclass(frozen=True)
class People:
    """A collection with two persons, and calls that enroll painted pictures."""

    api: Any
    paint: Callable[..., bytes]

    def file(self, *squares):
        return io.BytesIO(self.paint(*squares))

    def enroll(self, person, *squares, **fields):
        form = {"image": (self.file(*squares), "p.png"), **fields}
        path = f"/v1/collections/default/persons/{person}/images"
        return self.api.call("POST", path, data=form)

    def batch(self, files, query=""):
        data = {"images": [(self.file(*squares), name) for name, squares in files]}
        answer = self.api.call("POST", f"/v1/collections/default/enroll{query}", data=data)
        return [json.loads(line) for line in answer.data.splitlines()]

    def search(self, *squares, **fields):
        form = {"image": (self.file(*squares), "p.png"), **fields}
        return self.api.ok("POST", "/v1/collections/default/search", data=form)["probes"][0]

    def everybody(self):
        items = self.api.ok("GET", "/v1/collections/default/persons")["items"]
        return {one["name"]: one["templates"] for one in items}


@pytest.fixture
def people(api, helpers):
    for person in ("anna", "bert"):
        api.ok("POST", "/v1/collections/default/persons", json={"id": person, "name": person})
    return People(api, helpers.paint)


def test_several_faces_of_like_size_are_refused_with_their_boxes(people):
    refused = people.enroll("anna", (RED, 80), (GREEN, 70))
    assert (refused.status_code, refused.json["code"]) == (422, "several_faces")
    assert [one["box"] for one in refused.json["details"]["faces"]] == [
        [10, 10, 90, 90],
        [138, 10, 208, 80],
    ]
    assert people.enroll("anna", (RED, 80), (GREEN, 70), force="1").status_code == 422
    assert people.everybody()["anna"] == 0


@pytest.mark.parametrize(
    ("choice", "index"),
    [({"face": "1"}, 1), ({"face": "largest"}, 0), ({"box": "140,12,205,80"}, 1)],
)
def test_the_call_can_say_which_face_is_meant(people, choice, index):
    taken = people.enroll("anna", (RED, 80), (GREEN, 70), **choice)
    assert taken.status_code == 201, taken.json
    assert (taken.json["detection"]["face"], taken.json["detection"]["faces"]) == (index, 2)
    assert people.search(((RED, GREEN)[index], 60))["person"]["id"] == "anna"


@pytest.mark.parametrize(
    "choice", [{"face": "2"}, {"box": "0,100,9,120"}, {"face": "0", "box": "1,1,9,9"}]
)
def test_a_choice_that_fits_no_face_is_malformed(people, choice):
    refused = people.enroll("anna", (RED, 80), (GREEN, 70), **choice)
    assert refused.status_code == 400


def test_a_small_face_in_the_background_and_one_that_is_cut_off_do_not_count(people):
    assert people.enroll("anna", (RED, 80), (GREEN, 40)).status_code == 201
    assert people.enroll("bert", (BLUE, 100), (GREEN, 118)).status_code == 422  # largest cut off


def test_what_is_hardly_a_face_is_refused_and_creates_nobody(people):
    refused = people.enroll("anna", (GRAY, 80))
    assert (refused.status_code, refused.json["code"]) == (422, "no_face")
    assert refused.json["details"]["reasons"] == ["doubtful_face"]
    assert refused.json["details"]["certainty"] == 0.1
    (verdict,) = people.batch([("cup/1.png", [(GRAY, 80)])])
    assert (verdict["status"], verdict["code"]) == ("refused", "no_face")
    assert set(people.everybody()) == {"anna", "bert"}
    assert people.enroll("anna", (GRAY, 80), force="1").status_code == 201


def test_a_larger_thing_that_is_no_face_does_not_hide_the_face(people):
    taken = people.enroll("anna", (GRAY, 100), (GREEN, 50)).json
    assert (taken["detection"]["face"], taken["detection"]["faces"]) == (1, 2)


@pytest.mark.parametrize(
    ("squares", "reason"),
    [([(GRAY, 80)], "doubtful_face"), ([(RED, 80), (GREEN, 75)], "several_faces")],
)
def test_a_search_creates_nobody_from_a_doubtful_face_or_one_of_several(people, squares, reason):
    answer = people.search(*squares, create_person="1")
    assert (answer["created"], answer["not_created"]) == (False, [reason])
    assert set(people.everybody()) == {"anna", "bert"}


def test_a_picture_unlike_the_persons_own_references_is_refused_unless_forced(people):
    assert people.enroll("anna", (RED, 80)).status_code == 201
    refused = people.enroll("anna", (GREEN, 80))
    assert (refused.status_code, refused.json["code"]) == (409, "unlike_person")
    details = refused.json["details"]
    assert details["similarity"] < details["limit"]
    assert details["person"] == {"id": "anna", "name": "anna"}
    assert people.enroll("anna", (RED, 60)).status_code == 201
    assert people.enroll("anna", (GREEN, 80), force="1").status_code == 201


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_the_odd_one_out_of_a_batch_is_named_whatever_its_place(people, wrong):
    files = [(f"clara/{place}.png", [(RED, 50 + place)]) for place in range(3)]
    files[wrong] = (files[wrong][0], [(GREEN, 80)])
    verdicts = people.batch(files)
    assert [one["status"] for one in verdicts] == [
        "refused" if place == wrong else "accepted" for place in range(3)
    ]
    assert verdicts[wrong]["code"] == "unlike_person"


def test_of_two_pictures_that_show_two_people_neither_is_enrolled(people):
    verdicts = people.batch([("clara/1.png", [(RED, 80)]), ("clara/2.png", [(GREEN, 80)])])
    assert [one["code"] for one in verdicts] == ["unlike_person", "unlike_person"]
    assert set(people.everybody()) == {"anna", "bert"}


def test_each_verdict_says_how_many_faces_were_found_and_which_was_taken(people):
    files = [("clara/1.png", [(RED, 80), (GREEN, 75)]), ("clara/2.png", [(RED, 85), (GREEN, 40)])]
    several, taken = people.batch(files)
    assert several["code"] == "several_faces"
    assert (taken["faces"], taken["face"]) == (2, 0)
    largest, _ = people.batch(files, "?face=largest")
    assert (largest["status"], largest["faces"], largest["face"]) == ("accepted", 2, 0)


def test_the_same_file_twice_is_a_duplicate_with_force_too(people):
    assert people.enroll("anna", (RED, 80)).json["duplicate"] is False
    assert people.enroll("anna", (RED, 80), force="1").json["duplicate"] is True
    assert people.everybody()["anna"] == 1
    first, second = people.batch([("c/1.png", [(BLUE, 80)]), ("c/2.png", [(BLUE, 80)])])
    assert (first["status"], second["status"]) == ("accepted", "duplicate")


def test_another_face_of_the_same_file_is_no_duplicate(people):
    squares = [(RED, 80), (GREEN, 70)]
    assert people.enroll("anna", *squares, face="0").json["duplicate"] is False
    assert people.enroll("anna", *squares, face="1").status_code == 409  # unlike the first
    assert people.enroll("anna", *squares, face="0").json["duplicate"] is True


def test_the_answer_advises_more_pictures_until_there_are_three(people):
    answers = [people.enroll("anna", (RED, side)).json for side in (60, 70, 80)]
    assert [one["references"] for one in answers] == [1, 2, 3]
    assert "enroll two more" in answers[0]["advice"]
    assert "enroll one more" in answers[1]["advice"]
    assert answers[2]["advice"] is None
    assert "%" not in answers[0]["advice"]  # the model has no measured advice


def test_the_advice_says_what_was_measured_of_the_collections_model():
    missed = ReferenceCalibrations().missed("compact-mobilefacenet-512@1")
    first = advice(1, missed)
    assert f"{missed[0] * 100:.1f} % are missed with 1" in first
    assert f"{missed[2] * 100:.1f} % with 3" in first
    assert missed[0] > missed[1] > missed[2]


def test_two_folders_of_one_name_are_refused_by_import_and_by_a_batch(tmp_path, people):
    faces = tmp_path / "faces"
    for folder, colour in (("north/jo", RED), ("south/jo", GREEN), ("north/kim", BLUE)):
        (faces / folder).mkdir(parents=True)
        (faces / folder / "1.png").write_bytes(people.paint((colour, 80)))
    imports = people.api.services.imports
    plan = imports.plan("default", faces, again=False)
    groups = imports.run("default", plan, BatchQuery())
    verdicts = {one.file: one for one in chain.from_iterable(groups)}
    assert {file: one.status for file, one in verdicts.items()} == {
        "north/jo/1.png": "refused",
        "north/kim/1.png": "accepted",
        "south/jo/1.png": "refused",
    }
    assert verdicts["south/jo/1.png"].details["folders"] == ["north/jo", "south/jo"]
    first, second = people.batch([("a/lee/1.png", [(RED, 80)]), ("b/lee/1.png", [(GREEN, 80)])])
    assert (first["status"], second["code"]) == ("accepted", "conflict")


def test_import_can_be_told_to_take_the_largest_face():
    assert {option.name for option in import_.params} >= {"face", "force"}
