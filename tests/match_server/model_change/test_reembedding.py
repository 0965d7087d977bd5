"""Changes of a collection's model and back, without a lost person."""

import io
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import select, update

from match_server import container
from match_server.calibration.comparisons import compare
from match_server.calibration.grid import STEP
from match_server.commands.cli import main
from match_server.db.tables import Collection, Image, SpareTemplate, Template
from match_server.schemas.calibrations import CalibrationFile
from match_server.schemas.collections import DEFAULT_FPIR, DEFAULT_MARGIN, Policy
from match_server.services.faces import engines
from match_server.services.faces.face_engine import FaceEngine
from match_server.services.model_change.comparison import rates_at, threshold_for
from match_server.services.model_change.reembedding import NotPrepared
from match_server.services.policy.reference_calibrations import UNKNOWN_MODEL_THRESHOLD
from models.packs.references import reference_of
from shared.errors import Conflict, MalformedInput, NotFound, PackError
from shared.wire.template import Template as FaceTemplate
from tests.support.waiting import wait_until

OTHER, OTHER_DIMENSION = "turned-256@1", 256
PERSONS = "/v1/collections/{}/persons"

on_sqlite = pytest.mark.backends("sqlite")  # nothing in it depends on the database


@pytest.fixture
def other(helpers):
    """Face models with another dimension and other templates."""
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((512, OTHER_DIMENSION)))[0]

    class TurnedFaces(helpers.PaintedFaces):
        def _face(self, *arguments, **options):
            face = super()._face(*arguments, **options)
            if face.template is None:
                return face
            vector = face.template.vector @ rotation
            vector /= np.linalg.norm(vector)
            return replace(face, template=FaceTemplate(OTHER, vector.astype(np.float32)))

    return FaceEngine(OTHER, OTHER_DIMENSION, TurnedFaces)


@pytest.fixture
def encrypted(request):
    return getattr(request, "param", False)


both_kinds = pytest.mark.parametrize(
    "encrypted", [False, True], indirect=True, ids=["plain", "encrypted"]
)


@pytest.fixture
def api(encrypted, make_api, other, tmp_path):
    key_file = tmp_path / "master.keys"
    CliRunner().invoke(main, ["keyring", "new", "--file", str(key_file)])
    made = make_api(encryption_key_file=key_file)

    def find(model_id):
        if model_id != OTHER:
            raise PackError(f"there is no model {model_id!r}")
        return other

    made.services.engines._find = find
    made.ok("POST", "/v1/collections", json={"name": "staff", "encrypted": encrypted})
    return made


def colour(n):
    return (50, 100 + n, 200)


def enroll(api, helpers, name, n, *, store=1):
    person = api.ok("POST", PERSONS.format("staff"), json={"name": name})["id"]
    data = {"image": (io.BytesIO(helpers.paint((colour(n), 80))), "a.png")}
    path = f"{PERSONS.format('staff')}/{person}/images"
    made = api.ok("POST", path, data=data, query_string={"store": store, "force": 1})
    return person, made


def search_names(api, helpers, n):
    """The names of the persons that a picture finds."""
    data = {"image": (io.BytesIO(helpers.paint((colour(n), 80))), "a.png")}
    probe = api.ok("POST", "/v1/collections/staff/search", data=data)["probes"][0]
    return [one["person"]["name"] for one in probe["candidates"] if one["similarity"] > 0.99]


@both_kinds
def test_the_collection_goes_over_and_comes_back_with_everybody(api, helpers, other):
    work = api.services.reembedding
    people = [enroll(api, helpers, f"P{n}", n) for n in range(5)]
    before = api.ok("GET", "/v1/collections/staff")
    assert work.prepare("staff", other).done == 5
    assert search_names(api, helpers, 3) == ["P3"]
    assert api.ok("GET", "/v1/collections/staff")["model_id"] == helpers.MODEL

    state = work.switch("staff", 0.6)
    assert (state.model_id, state.switched) == (OTHER, True)
    after = api.ok("GET", "/v1/collections/staff")
    assert (after["model_id"], after["dimension"]) == (OTHER, OTHER_DIMENSION)
    assert (after["templates"], after["policy"]["threshold"]) == (5, 0.6)
    assert [search_names(api, helpers, n) for n in range(5)] == [[f"P{n}"] for n in range(5)]
    ids = {one["template_id"] for _, one in people}
    with api.services.database.read() as session:
        rows = session.scalars(select(Template)).all()
        assert {row.id for row in rows} == ids  # the ids of templates stay valid
        assert {row.model_id for row in rows} == {OTHER}

    old = {"vector": helpers.encode(helpers.unit_vector(1)), "model_id": helpers.MODEL}
    refused = api.refused(409, "POST", "/v1/collections/staff/search", json={"templates": [old]})
    assert refused["code"] == "model_mismatch"

    enroll(api, helpers, "Late", 9)  # with the new model
    assert work.prepare("staff", api.services.faces).done == 6
    work.rollback("staff")
    again = api.ok("GET", "/v1/collections/staff")
    assert (again["model_id"], again["policy"]) == (helpers.MODEL, before["policy"])
    assert search_names(api, helpers, 9) == ["Late"]
    assert [search_names(api, helpers, n) for n in range(5)] == [[f"P{n}"] for n in range(5)]

    work.switch("staff", 0.6)
    assert work.finish("staff") == 6
    assert search_names(api, helpers, 9) == ["Late"]
    with api.services.database.read() as session:
        assert session.scalars(select(SpareTemplate)).all() == []
    with pytest.raises(NotFound):
        work.rollback("staff")


@on_sqlite
def test_other_processes_follow_the_switch(api, make_api, helpers, other):
    enroll(api, helpers, "Ann", 1)
    key_file = api.services.settings.encryption_key_file
    beside = make_api(encryption_key_file=key_file)
    beside.services.engines._find = lambda model_id: other
    assert search_names(beside, helpers, 1) == ["Ann"]
    api.services.reembedding.prepare("staff", other)
    api.services.reembedding.switch("staff", 0.6)
    assert search_names(beside, helpers, 1) == ["Ann"]
    galleries = api.services.settings.data_dir / "galleries"
    beside.services.galleries.close()
    with api.services.database.read() as session:
        number = session.scalar(select(Collection.number).where(Collection.name == "staff"))
    assert not (galleries / str(number)).exists()  # the segments of the old model


def test_enrollments_between_prepare_and_switch_are_waited_for(api, helpers, other):
    enroll(api, helpers, "Ann", 1)
    work = api.services.reembedding
    work.prepare("staff", other)
    enroll(api, helpers, "Bob", 2)
    with pytest.raises(NotPrepared, match="1 templates"):
        work.switch("staff", 0.6)
    assert search_names(api, helpers, 2) == ["Bob"]  # nothing was changed
    assert work.prepare("staff", other).done == 2
    work.switch("staff", 0.6)
    assert search_names(api, helpers, 2) == ["Bob"]


def test_who_has_no_photo_is_listed_and_left_only_when_that_is_accepted(api, helpers, other):
    work = api.services.reembedding
    enroll(api, helpers, "Ann", 1)
    bob, made = enroll(api, helpers, "Bob", 2, store=0)
    _, gone = enroll(api, helpers, "Cyd", 3)
    with api.services.database.read() as session:
        file = session.scalar(select(Image.file).where(Image.id == gone["image_id"]))
    (api.services.settings.data_dir / file).unlink()
    state = work.prepare("staff", other)
    reasons = {one.template: (one.person, one.reason) for one in state.left}
    assert reasons[made["template_id"]] == (bob, "no_photo")
    assert reasons[gone["template_id"]][1] == "photo_missing"
    with pytest.raises(Conflict, match="2 templates"):
        work.switch("staff", 0.6)
    work.switch("staff", 0.6, accept_left=True)
    assert search_names(api, helpers, 1) == ["Ann"]
    assert search_names(api, helpers, 2) == []
    assert api.ok("GET", "/v1/collections/staff")["templates"] == 1
    assert {one.person for one in work.state("staff").left} >= {bob}
    work.rollback("staff")
    assert search_names(api, helpers, 2) == ["Bob"]  # kept until the end
    assert api.ok("GET", "/v1/collections/staff")["templates"] == 3


def test_what_is_enrolled_during_a_switch_is_found_with_the_new_model(
    api, make_api, helpers, other
):
    """Pictures in progress are enrolled with the old model or with the new one."""
    writer, stop, made = make_api(), threading.Event(), []
    writer.services.engines._find = lambda model_id: other

    def enroll_on():
        for n in range(60):
            if stop.is_set():
                return
            enroll(writer, helpers, f"P{n}", n)
            made.append(n)

    thread = threading.Thread(target=enroll_on)
    thread.start()
    wait_until(lambda: len(made) >= 3, "3 persons are enrolled")
    work = api.services.reembedding
    while True:  # at the latest when the other has enrolled all
        work.prepare("staff", other)
        try:
            work.switch("staff", 0.6)
        except NotPrepared:
            continue
        break
    enough = len(made) + 3
    wait_until(lambda: not thread.is_alive() or len(made) >= enough, "3 more persons are enrolled")
    stop.set()
    thread.join()
    assert api.ok("GET", "/v1/collections/staff")["model_id"] == OTHER
    assert [search_names(api, helpers, n) for n in made] == [[f"P{n}"] for n in made]
    with api.services.database.read() as session:
        assert set(session.scalars(select(Template.model_id))) == {OTHER}


@on_sqlite
def test_the_face_that_was_enrolled_is_taken_not_another_in_the_photo(api, helpers, other):
    person = api.ok("POST", PERSONS.format("staff"), json={"name": "Ann"})["id"]
    photo = helpers.paint((colour(1), 60), (colour(2), 100))
    data = {"image": (io.BytesIO(photo), "a.png")}
    path = f"{PERSONS.format('staff')}/{person}/images"
    made = api.ok("POST", path, data=data, query_string={"store": 1, "force": 1})
    with api.services.database.write() as session:  # as if the smaller one had been chosen
        detection = made["detection"] | {"box": [10.0, 10.0, 70.0, 70.0]}
        session.execute(update(Image).values(detection=detection))
    api.services.reembedding.prepare("staff", other)
    api.services.reembedding.switch("staff", 0.6)
    assert search_names(api, helpers, 1) == ["Ann"]
    assert search_names(api, helpers, 2) == []


def test_an_erased_person_is_gone_from_both_models(api, helpers, other):
    _, made = enroll(api, helpers, "Ann", 1)
    bob, _ = enroll(api, helpers, "Bob", 2)
    work = api.services.reembedding
    work.prepare("staff", other)
    api.ok("DELETE", f"/v1/templates/{made['template_id']}")
    api.ok("DELETE", f"{PERSONS.format('staff')}/{bob}")
    with api.services.database.read() as session:
        assert session.scalars(select(SpareTemplate)).all() == []
    work.switch("staff", 0.6)
    assert search_names(api, helpers, 1) == search_names(api, helpers, 2) == []


@on_sqlite
def test_what_makes_no_sense_is_refused(api, helpers, other):
    work = api.services.reembedding
    with pytest.raises(MalformedInput, match="already"):
        work.prepare("staff", api.services.faces)
    with pytest.raises(NotFound, match="no change of model"):
        work.switch("staff", 0.6)
    work.prepare("staff", other)
    third = FaceEngine("third@1", 512, helpers.PaintedFaces)
    with pytest.raises(Conflict, match="finish that first"):
        work.prepare("staff", third)
    with pytest.raises(Conflict, match="no way back"):
        work.rollback("staff")


def test_both_models_are_compared_on_the_same_photos(api, helpers, other):
    for n in range(6):
        enroll(api, helpers, f"P{n}", n)
    api.services.reembedding.prepare("staff", other)
    compared = api.services.comparisons.compare("staff")
    assert (compared.templates, compared.persons) == (6, 6)
    assert (compared.genuine, compared.impostor) == (0, 15)
    assert compared.current.genuine_mean is None
    with api.services.database.read() as session:
        stored = session.execute(
            select(Template.id, Template.vector).order_by(Template.number)
        ).all()
        collection = session.scalars(select(Collection).where(Collection.name == "staff")).one()
        cipher = api.services.vault.cipher(session, collection)
        vectors = cipher.open_vectors(helpers.MODEL, [(row.id, row.vector) for row in stored])
    rows = np.frombuffer(b"".join(vectors), "<f2").reshape(6, -1).astype(np.float64)
    impostors = (rows @ rows.T)[np.triu_indices(6, 1)]
    assert compared.current.impostor_mean == pytest.approx(impostors.mean(), abs=1e-3)
    assert compared.current.fmr == pytest.approx((impostors >= 0.35).mean())


@pytest.mark.parametrize("seed", range(5))
def test_the_proposed_threshold_is_the_lowest_with_no_more_false_matches(seed):
    random = np.random.default_rng(seed)
    persons = np.repeat(np.arange(20), 3)
    rows = random.standard_normal((60, 16)) + 2 * random.standard_normal((20, 16))[persons]
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    compared = compare(rows, persons)
    expected = 0.01
    threshold = threshold_for(compared, expected, 0.35)
    assert rates_at(compared, threshold)[0] <= expected
    assert rates_at(compared, threshold - STEP)[0] > expected
    similarities = rows.astype(np.float32) @ rows.astype(np.float32).T
    others = similarities[persons[:, None] < persons[None, :]]
    assert rates_at(compared, threshold)[0] == pytest.approx((others >= threshold).mean(), abs=2e-3)


@on_sqlite
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"target_fpir": 0.02, "margin": 0.05}, {"target_fpir": 0.02, "margin": 0.05}),
        ({"threshold": 0.4}, {"target_fpir": DEFAULT_FPIR, "margin": DEFAULT_MARGIN}),
    ],
)
def test_a_wished_rate_stays_by_the_reference_of_the_other_model(api, other, before, after):
    read = CalibrationFile.model_validate_json(reference_of("compact-mobilefacenet-512@1"))
    renamed = read.model_copy(update={"model_id": OTHER})
    text = renamed.model_copy(update={"sha256": renamed.digest()}).model_dump_json().encode()
    api.services.points.references._find_reference = lambda _model: text
    with api.services.database.write() as session:
        (collection,) = session.scalars(select(Collection).where(Collection.name == "staff"))
        collection.policy = {**Policy.model_validate({**before, "candidates": 7}).model_dump()}
    work = api.services.reembedding
    work.prepare("staff", other)
    work.switch("staff")
    expected = {"threshold": None, "candidates": 7, **after}
    assert {name: _policy(api)[name] for name in expected} == expected
    work.rollback("staff")
    assert _policy(api)["candidates"] == 7


def _policy(api):
    return api.ok("GET", "/v1/collections/staff")["policy"]


@on_sqlite
def test_the_command_prepares_compares_switches_and_finishes(api, helpers, monkeypatch, other):
    monkeypatch.setattr(engines, "installed_engine", lambda *_: other)
    monkeypatch.setattr(engines, "find_installed", lambda *_: lambda _: other)
    settings = api.services.settings
    monkeypatch.setenv("MUSTER_ENCRYPTION_KEY_FILE", str(settings.encryption_key_file))
    if settings.database_url is not None:
        monkeypatch.setenv("MUSTER_DATABASE_URL", settings.database_url)
    monkeypatch.setattr(container, "find_installed", lambda *_: lambda _: other)
    monkeypatch.setattr(
        container, "face_engine", lambda *_: FaceEngine(helpers.MODEL, 512, helpers.PaintedFaces)
    )
    for n in range(3):
        enroll(api, helpers, f"P{n}", n)

    def run(*words, status=0):
        command = ["reembed", "staff", *words, "--data-dir", str(settings.data_dir)]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == status, result.output
        return result

    answer = json.loads(run("--pack", "turned", "--compare", "--json").stdout)
    assert (answer["done"], answer["comparison"]["impostor"]) == (3, 3)
    assert "--switch" in run("--threshold", "0.5", status=2).output
    assert f"uses {OTHER}" in run("--switch").output
    assert _policy(api)["threshold"] == UNKNOWN_MODEL_THRESHOLD
    run("--rollback")
    assert f"uses {OTHER}" in run("--switch", "--threshold", "0.55").output
    assert _policy(api)["threshold"] == 0.55
    assert search_names(api, helpers, 2) == ["P2"]
    run("--rollback")
    assert api.ok("GET", "/v1/collections/staff")["model_id"] == helpers.MODEL
    assert "3 templates" in run("--finish").output
