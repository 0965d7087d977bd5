"""Erasure: no data of the person is left anywhere, with a certificate."""

import hashlib
import io
import json
from datetime import timedelta

import pytest
from click.testing import CliRunner
from sqlalchemy import select, text

from match_server.commands.cli import main
from match_server.db.tables import Follower, Table
from match_server.schemas.feed import GalleriesPut
from match_server.services.audit.chain import Actor, act_as
from match_server.services.lookups import collection_named
from shared.errors import Unavailable

PERSONS = "/v1/collections/default/persons"
BLUE = (0, 0, 200)
RARE = {
    "name": "Xanthippe-Rare",
    "external_id": "Payroll-Rare-4711",
    "metadata": {"nickname": "Xanthi-Rare", "floor": 3},
}


@pytest.fixture(autouse=True)
def nobody():
    act_as(Actor())


@pytest.fixture
def xanthippe(api, helpers):
    """A person with data of every kind, and the texts that must not be left."""
    group = api.ok("POST", "/v1/groups", json={"collection": "default", "name": "G"})["id"]
    vector = helpers.unit_vector(0x0000C8)  # of the painted face
    picture = helpers.paint((BLUE, 80))
    person = api.person(
        RARE["name"], **{k: RARE[k] for k in ("external_id", "metadata")}, groups=[group]
    )
    api.ok(
        "POST", f"{PERSONS}/{person}/images?store=1", data={"image": (io.BytesIO(picture), "a.png")}
    )
    second = helpers.unit_vector(7, near=vector, similarity=0.7)
    api.template(person, second)
    api.person("Bob", helpers.unit_vector(9, near=vector, similarity=0.2))
    probe = api.probe(vector, thumbnail=helpers.thumbnail(5))
    event = api.send(probe)[0]["event"]
    assert event["person"]["id"] == person
    api.search(vector)
    snapshot = api.call("GET", f"/v1/events/{event['id']}/snapshot").get_data()
    secrets = {
        "name": b"Xanthippe-Rare",
        "external id": b"Payroll-Rare",
        "metadata": b"Xanthi-Rare",
        "photo": picture[:200],
        "thumbnail": snapshot[:200],
        "template": vector.astype("<f2").tobytes()[:64],
        "second template": second.astype("<f2").tobytes()[:64],
    }
    return person, event["id"], secrets


def _left(services, secrets):
    """Those of the texts that are in a file of the data folder or a row of the database."""
    with services.database.read() as session:
        rows = [
            _bytes(value)
            for table in Table.metadata.sorted_tables
            for row in session.execute(select(table))
            for value in row
        ]
    files = [file.read_bytes() for file in services.settings.data_dir.rglob("*") if file.is_file()]
    content = b"\0".join([*rows, *files])
    return {name for name, secret in secrets.items() if secret in content}


def _bytes(value):
    return value if isinstance(value, bytes) else json.dumps(value, default=str).encode()


def test_nothing_of_an_erased_person_is_left_in_any_file_or_row(api, helpers, xanthippe):
    person, _, secrets = xanthippe
    api.services.galleries.close()  # its segments are on the disk as well
    galleries = list((api.services.settings.data_dir / "galleries").rglob("*"))
    assert any(secrets["template"] in one.read_bytes() for one in galleries if one.is_file())
    assert _left(api.services, secrets) == set(secrets)
    erased = api.ok("DELETE", f"{PERSONS}/{person}")
    assert api.services.erasures.settle() == 0
    assert _left(api.services, secrets) == set()
    assert api.names(helpers.unit_vector(0x0000C8)) == ["Bob"]
    view = api.ok("GET", f"/v1/erasures/{erased['erasure']}", "enroller")
    assert (view["state"], view["waiting"]) == ("complete", [])


def test_the_certificate_says_what_went_and_is_in_the_audit_log(make_api, helpers, clock):
    api = make_api(declared_backups={"nightly": 14})
    vector = helpers.unit_vector(1)
    person = api.person("Ann", id="p1", metadata={"floor": 3})
    template = api.template("p1", vector)["id"]
    picture = helpers.paint((BLUE, 80))
    image = api.ok(
        "POST",
        f"{PERSONS}/p1/images?store=1&force=1",
        data={"image": (io.BytesIO(picture), "a.png")},
    )["image_id"]
    api.send(api.probe(vector))
    headers = {"X-Request-Id": "r-1"}
    erased = api.ok("DELETE", f"{PERSONS}/{person}", "enroller", headers=headers)
    view = api.ok("GET", f"/v1/erasures/{erased['erasure']}")
    certificate, removed = view["certificate"], view["certificate"]["removed"]
    assert view["state"] == "pending"
    assert (certificate["person"], certificate["role"]) == ("p1", "enroller")
    assert (certificate["request_id"], certificate["seq"]) == ("r-1", erased["seq"])
    digest = hashlib.sha256(vector.astype("<f2").tobytes()).hexdigest()
    assert {"id": template, "sha256": digest} in removed["templates"]
    assert removed["images"] == [{"id": image, "sha256": hashlib.sha256(picture).hexdigest()}]
    counts = {"photos": 1, "snapshots": 1, "events": 1, "candidates": 1, "probes": 1}
    assert removed | counts == removed
    assert len(removed["templates"]) == 2
    assert certificate["backups"][0]["name"] == "nightly"
    assert certificate["backups"][0]["until"][:10] == str(clock.now().date() + timedelta(days=14))
    entry = api.ok("GET", f"/v1/audit?subject={view['certificate']['id']}")["items"][-1]
    assert entry["details"]["sha256"] == view["sha256"]
    assert (entry["number"], entry["hash"]) == (view["audit"]["number"], view["audit"]["hash"])
    assert api.services.audit.verify().certificates == 1
    listed = api.ok("GET", "/v1/erasures?person=p1&state=pending")
    assert [one["certificate"]["id"] for one in listed["items"]] == [certificate["id"]]
    api.refused(404, "GET", "/v1/erasures/none")
    api.refused(403, "GET", "/v1/erasures", "viewer")


def test_it_is_pending_until_the_boxes_that_hold_the_gallery_have_followed(api, helpers, clock):
    services = api.services
    expected = {"galleries": [{"collection": "default"}]}
    for device in ("door-1", "door-2", "never-came"):
        services.followers.put(device, GalleriesPut.model_validate(expected))
    api.person("Ann", helpers.unit_vector(1), id="p1")

    def acknowledge(device, seq, keep_h=None):
        with services.database.read() as session:
            number = collection_named(session, "default").number
        grant = services.followers.grant(device, number)
        services.followers.acknowledge(grant, number, seq, keep_h)

    acknowledge("door-1", 2)
    acknowledge("door-2", 2, keep_h=1)
    erased = api.ok("DELETE", f"{PERSONS}/p1")
    path = f"/v1/erasures/{erased['erasure']}"
    assert services.erasures.settle() == 1
    waiting = api.ok("GET", path)["waiting"]
    assert [(one["who"], one["name"]) for one in waiting] == [
        ("device", "door-1"),
        ("device", "door-2"),
    ]
    acknowledge("door-1", erased["seq"])
    assert services.erasures.settle() == 1
    clock.advance(3601)  # door-2 has been away for so long that it has wiped what it held
    assert services.erasures.settle() == 0
    view = api.ok("GET", path)
    assert (view["state"], view["waiting"]) == ("complete", [])
    done = api.ok("GET", "/v1/audit?action=erasure_completed")["items"]
    assert [one["person"] for one in done] == ["p1"]
    with services.database.read() as session:
        assert len(session.scalars(select(Follower)).all()) == 3


def test_it_is_pending_while_a_storage_does_not_answer(api, helpers, monkeypatch):
    api.person("Ann", id="p1")
    picture = helpers.paint((BLUE, 80))
    api.ok("POST", f"{PERSONS}/p1/images?store=1", data={"image": (io.BytesIO(picture), "a.png")})

    def silent(*_):
        raise Unavailable("no answer")

    with monkeypatch.context() as broken:
        broken.setattr("match_server.services.storage.backends.Folder.delete", silent)
        erased = api.ok("DELETE", f"{PERSONS}/p1")
        assert erased["pending"] == 1
        assert api.services.erasures.settle() == 1
        (waiting,) = api.ok("GET", f"/v1/erasures/{erased['erasure']}")["waiting"]
        assert waiting["who"] == "files"
    assert api.services.erasures.settle() == 0


def test_the_server_sees_to_it_by_itself(api, helpers, clock):
    api.person("Ann", helpers.unit_vector(1), id="p1")
    erased = api.ok("DELETE", f"{PERSONS}/p1")
    clock.advance(16)
    api.services.housekeeper.tick()
    assert api.ok("GET", f"/v1/erasures/{erased['erasure']}")["state"] == "complete"


def test_segments_of_a_model_that_is_no_longer_used_go_as_well(api, helpers):
    """A crash between the switch of models and the next search leaves segments."""
    api.person("Ann", helpers.unit_vector(1), id="p1")
    api.search(helpers.unit_vector(1))
    old = api.services.settings.data_dir / "galleries" / "1"
    assert old.is_dir()
    with api.services.database.write() as session:
        collection_named(session, "default").generation = 1
    api.ok("DELETE", f"{PERSONS}/p1")
    assert api.services.erasures.settle() == 0
    assert not old.exists()


def test_an_ambiguous_sighting_that_the_person_leads_loses_its_thumbnail(api, helpers):
    api.ok("PATCH", "/v1/collections/default", json={"policy": {"margin": 0.5}})
    vector = helpers.unit_vector(1)
    api.person("Ann", vector, id="ann")
    api.person("Eve", helpers.unit_vector(2, near=vector, similarity=0.9), id="eve")
    event = api.send(api.probe(vector))[0]["event"]
    assert event["decision"] == "ambiguous"
    api.ok("DELETE", f"{PERSONS}/eve")  # not the best candidate: it is hardly she
    assert api.call("GET", f"/v1/events/{event['id']}/snapshot").status_code == 200
    api.ok("DELETE", f"{PERSONS}/ann")
    api.refused(404, "GET", f"/v1/events/{event['id']}/snapshot")


def test_the_command_erases_while_the_server_runs_and_prints_the_certificate(api, helpers):
    api.person("Ann Rare", helpers.unit_vector(1), id="p1")
    api.search(helpers.unit_vector(1))
    settings = api.services.settings
    environment = {"MUSTER_DATABASE_URL": settings.database_url} if settings.database_url else {}

    def run(*arguments, code=0):
        command = ["erase", *arguments, "--data-dir", str(settings.data_dir)]
        result = CliRunner().invoke(main, command, env=environment)
        assert result.exit_code == code, result.output
        return result.output

    # The command has the real face models' names, and needs none of them.
    refused = run("p1", code=1)
    assert "erases Ann Rare" in refused
    assert "--yes" in refused
    assert api.names(helpers.unit_vector(1)) == ["Ann Rare"]
    actual = json.loads(run("p1", "--yes", "--json"))
    assert actual["state"] == "complete"
    assert (actual["certificate"]["actor"], actual["certificate"]["person"]) == (
        "command erase",
        "p1",
    )
    assert "State: complete" in run("--certificate", actual["certificate"]["id"])
    assert "no person 'p1'" in run("p1", "--yes", code=1)
    assert "--certificate" in run(code=2)
    assert api.names(helpers.unit_vector(1)) == []


def test_erased_rows_are_not_left_in_the_log_of_sqlite(api, xanthippe):
    if not api.services.database.is_sqlite:
        pytest.skip("PostgreSQL's log is its own; the certificate says so")
    person, _, secrets = xanthippe
    api.ok("DELETE", f"{PERSONS}/{person}")
    log = api.services.settings.data_dir / "muster.db-wal"
    assert secrets["name"] in log.read_bytes()
    with api.services.database.read() as reader:
        reader.execute(text("SELECT 1 FROM persons")).all()
        assert api.services.database.shrink_log() is False  # a reader prevents it: try again later
    assert api.services.database.shrink_log() is True
    assert log.read_bytes() == b""
