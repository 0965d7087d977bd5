"""Galleries that differ from the database: the templates are named, and only they are mended."""

import json
import logging

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import delete, select, update

from match_server.commands.cli import main
from match_server.db.tables import Change, Template
from match_server.services.galleries import follower
from match_server.services.galleries.galleries import Galleries
from match_server.services.lookups import collection_named
from shared.encryption import Key
from shared.gallery import DiskIndex, MemoryIndex
from shared.ids import new_id


@pytest.fixture
def worker(people, tmp_path):
    """Starts galleries over one folder, as several processes do."""
    started = []

    def start():
        started.append(Galleries(people.services.database, people.services.vault, folder=tmp_path))
        return started[-1]

    yield start
    for galleries in started:
        galleries.close()


@pytest.fixture(params=["encrypted", "plain"])
def people(request, make_api, helpers, tmp_path):
    """The API of a server with a collection of three persons, each with one template."""
    file = tmp_path / "master.keys"
    file.write_text(Key.new().text)
    api = make_api(encryption_key_file=file)
    encrypted = request.param == "encrypted"
    api.ok("POST", "/v1/collections", json={"name": "c", "encrypted": encrypted})
    for name in ("Ann", "Bob", "Eve"):
        api.ok("POST", "/v1/collections/c/persons", json={"name": name, "id": name})
    for seed, name in enumerate(("Ann", "Bob", "Eve")):
        _enroll(api, name, helpers.unit_vector(seed), helpers)
    return api


def _enroll(api, name, vector, helpers):
    body = {"template": helpers.encode(vector), "model_id": helpers.MODEL}
    return api.ok("POST", f"/v1/collections/c/persons/{name}/templates", json=body)["id"]


def _gallery(galleries, api) -> MemoryIndex:
    with api.services.database.read() as session:
        collection = collection_named(session, "c")
    return galleries.caught_up(collection).gallery


def _rows(api):
    with api.services.database.read() as session:
        return session.scalars(select(Template).order_by(Template.number)).all()


def _held(galleries, api, helpers, seeds=range(4)):
    """Which of these vectors a gallery has, and their numbers."""
    probes = np.stack([helpers.unit_vector(seed) for seed in seeds])
    candidates = _gallery(galleries, api).search(probes, 1, threshold=0.99)
    return {
        seed: each.ids.tolist()[0]
        for seed, each in zip(seeds, candidates, strict=True)
        if each.ids.shape[0]
    }


def _complaint(caplog):
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    caplog.clear()
    return record


def _as_stored(api, template_id, vector):
    """The columns of a template with another vector, as a program that knows the keys writes it."""
    with api.services.database.read() as session:
        collection = collection_named(session, "c")
        cipher = api.services.vault.cipher(session, collection)
    plain = vector.astype("<f2").tobytes()
    (value,) = cipher.hash_vectors(collection.model_id, [template_id], [plain])
    sealed = cipher.seal_vector(template_id, collection.model_id, plain)
    return {"vector": sealed, "vector_hash": value}


def _agrees_after(galleries, api, caplog, expected, helpers):
    """The content is now this in these galleries and in new ones, and nothing differs any more."""
    first = _gallery(galleries[0], api)
    if isinstance(first, DiskIndex):
        first.seal()  # as its background thread does
    for each in galleries:
        each.compare()
        assert _held(each, api, helpers) == expected
        assert each.differing() == 0
    assert [record for record in caplog.records if record.levelno == logging.ERROR] == []


def test_a_template_deleted_by_hand_is_named_and_no_longer_found(people, worker, helpers, caplog):
    galleries = worker()
    first, bob, _ = _rows(people)
    assert len(_held(galleries, people, helpers)) == 3
    with people.services.database.write() as session:
        session.execute(delete(Template).where(Template.id == bob.id))
    galleries.compare()
    assert galleries.differing() == 1
    why = "0 templates are missing in it, 1 are not in the database, 0 have another vector"
    assert _complaint(caplog).why == f"{why}; the first is {bob.id}"
    _agrees_after([galleries, worker()], people, caplog, {0: 1, 2: 3}, helpers)
    assert first.number == 1


@pytest.mark.parametrize("hashed", [True, False])
def test_a_vector_changed_by_hand_is_named_and_searched(people, worker, helpers, caplog, hashed):
    """With its hash, or without one: then the server hashes it."""
    galleries = worker()
    _, bob, _ = _rows(people)
    assert len(_held(galleries, people, helpers)) == 3
    values = _as_stored(people, bob.id, helpers.unit_vector(3))
    if not hashed:
        values["vector_hash"] = None
    with people.services.database.write() as session:
        session.execute(update(Template).where(Template.id == bob.id).values(values))
    people.services.hashes.fill()
    galleries.compare()
    why = "0 templates are missing in it, 0 are not in the database, 1 have another vector"
    assert _complaint(caplog).why == f"{why}; the first is {bob.id}"
    _agrees_after([galleries, worker()], people, caplog, {0: 1, 2: 3, 3: 2}, helpers)


def test_a_template_inserted_by_hand_is_named_and_found(people, worker, helpers, caplog):
    galleries = worker()
    assert len(_held(galleries, people, helpers)) == 3
    _, bob, _ = _rows(people)
    columns = {column.name: getattr(bob, column.name) for column in Template.__table__.columns}
    template_id = new_id()
    columns |= {"number": 17, "id": template_id, "image_id": None}
    columns |= _as_stored(people, template_id, helpers.unit_vector(3))
    with people.services.database.write() as session:
        session.add(Template(**columns))
    galleries.compare()
    why = "1 templates are missing in it, 0 are not in the database, 0 have another vector"
    assert _complaint(caplog).why == f"{why}; the first is {template_id}"
    _agrees_after([galleries, worker()], people, caplog, {0: 1, 1: 2, 2: 3, 3: 17}, helpers)


def test_a_template_that_one_process_lost_or_confused_is_mended_there(
    people, worker, helpers, caplog
):
    galleries, other = worker(), worker()
    whole = {0: 1, 1: 2, 2: 3}
    for each in (galleries, other):
        assert _held(each, people, helpers) == whole
    gallery = _gallery(galleries, people)
    reached = gallery.reached
    gallery.mend(reached, np.array([2], np.uint64), np.array([3], np.uint64), _row(helpers, 9))
    assert _held(galleries, people, helpers) == {0: 1}
    galleries.compare()
    why = "1 templates are missing in it, 0 are not in the database, 1 have another vector"
    assert why in _complaint(caplog).why
    _agrees_after([galleries, other, worker()], people, caplog, whole, helpers)


def _row(helpers, seed):
    return helpers.unit_vector(seed)[np.newaxis]


def test_a_gallery_in_which_much_differs_is_rebuilt(people, worker, helpers, caplog, monkeypatch):
    monkeypatch.setattr(follower, "_MANY", 1)
    galleries = worker()
    gallery = _gallery(galleries, people)
    gallery.mend(gallery.reached, np.array([1, 2], np.uint64), *_nothing(gallery))
    galleries.compare()
    record = _complaint(caplog)
    assert record.message == "Rebuilding a gallery that differs from the database"
    _agrees_after([galleries], people, caplog, {0: 1, 1: 2, 2: 3}, helpers)


def _nothing(gallery):
    return np.empty(0, np.uint64), np.empty((0, gallery._book.dimension), np.float32)


def test_a_template_that_can_be_read_again_is_found_again(people, worker, helpers, caplog):
    _, bob, _ = _rows(people)
    with people.services.database.write() as session:
        cut = update(Template).where(Template.id == bob.id)
        session.execute(cut.values(vector=bob.vector[:-7]))
    galleries = worker()
    assert _held(galleries, people, helpers) == {0: 1, 2: 3}
    caplog.clear()
    _agrees_after([galleries], people, caplog, {0: 1, 2: 3}, helpers)
    with people.services.database.write() as session:
        session.execute(cut.values(vector=bob.vector))
    galleries.compare()
    assert _complaint(caplog).why.startswith("1 templates are missing in it")
    _agrees_after([galleries], people, caplog, {0: 1, 1: 2, 2: 3}, helpers)
    assert galleries.damaged() == 0


def test_metrics_count_what_differed_and_was_mended(people, helpers):
    services = people.services
    _gallery(services.galleries, people)
    with services.database.write() as session:
        session.execute(delete(Template).where(Template.number == 2))
        assert session.scalars(select(Change.seq)).all()
    services.galleries.compare()
    services.set_gauges()
    text, _ = services.metrics.exposition(lambda: iter(()))
    assert b'muster_gallery_mended_total{follower="process"} 1.0' in text
    assert b"muster_gallery_differing 1.0" in text
    services.galleries.compare()
    services.set_gauges()
    assert b"muster_gallery_differing 0.0" in services.metrics.exposition(lambda: iter(()))[0]


def test_the_doctor_compares_the_files_of_running_servers(people, helpers):
    settings, galleries = people.services.settings, people.services.galleries
    gallery = _gallery(galleries, people)
    environment = {"MUSTER_ENCRYPTION_KEY_FILE": str(settings.encryption_key_file)}
    if settings.database_url:
        environment["MUSTER_DATABASE_URL"] = settings.database_url

    def check():
        command = ["doctor", "--json", "--data-dir", str(settings.data_dir)]
        result = json.loads(CliRunner().invoke(main, command, env=environment).stdout)
        (followers,) = [check for check in result["checks"] if check["name"] == "followers"]
        return followers["ok"], followers["message"]

    agree = True, "galleries on the disk and boxes agree with the database"
    galleries.warm()  # also that of a collection without anybody
    assert check() == agree
    _enroll(people, "Ann", helpers.unit_vector(7), helpers)  # not in the files yet
    assert check() == agree
    _, bob, *_ = _rows(people)
    with people.services.database.write() as session:
        session.execute(delete(Template).where(Template.id == bob.id))
    if isinstance(gallery, DiskIndex):  # else there are no files
        ok, message = check()
        assert not ok
        assert "c: 0 templates are missing in it, 1 are not in the database" in message
        assert bob.id in message
        galleries.compare()
        gallery.seal()
    assert check() == agree


def test_the_template_that_is_named_is_one_that_can_be_mended(people, worker, helpers, caplog):
    ann, _, eve = _rows(people)
    with people.services.database.write() as session:
        session.execute(update(Template).where(Template.id == ann.id).values(vector=b"cut"))
    galleries = worker()
    gallery = _gallery(galleries, people)
    caplog.clear()
    gallery.mend(gallery.reached, np.array([3], np.uint64), *_nothing(gallery))
    galleries.compare()
    record = _complaint(caplog)
    assert record.why.startswith("1 templates are missing in it")
    assert record.why.endswith(eve.id)
