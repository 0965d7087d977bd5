"""Rotation of keys while the server runs; a killed rotation continues and loses nothing."""

import io
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from match_server.commands.cli import main
from match_server.db.tables import DataKey, Image, Template
from shared.encryption import Key, Keyring
from tests.support.waiting import wait_until

PERSONS = "/v1/collections/secret/persons"
TEMPLATES, PHOTOS = 1200, 3

on_sqlite = pytest.mark.backends("sqlite")  # nothing in it depends on the database


@pytest.fixture
def key_file(tmp_path):
    file = tmp_path / "master.keys"
    file.write_text(Key.new().text)
    file.chmod(0o640)
    return file


@pytest.fixture
def api(make_api, key_file, helpers):
    """A server with an encrypted collection of many templates and a few photos."""
    api = make_api(encryption_key_file=key_file)
    api.ok("POST", "/v1/collections", json={"name": "secret", "encrypted": True})
    lines = [
        {
            "name": f"P{n}",
            "template": helpers.encode(helpers.unit_vector(n)),
            "model_id": helpers.MODEL,
        }
        for n in range(TEMPLATES)
    ]
    sent = "\n".join(map(json.dumps, lines))
    api.call(
        "POST", "/v1/collections/secret/enroll", data=sent, content_type="application/x-ndjson"
    ).get_data()
    person = api.ok("POST", PERSONS, json={"name": "Ann"})["id"]
    for n in range(PHOTOS):
        data = {"image": (io.BytesIO(picture(helpers, n)), "a.png")}
        path = f"{PERSONS}/{person}/images"
        api.ok("POST", path, data=data, query_string={"store": 1, "force": 1})
    return api


def picture(helpers, n):
    return helpers.paint(((0, 100 + n, 200), 80))


def state(api):
    with api.services.database.read() as session:
        keys = {
            row.number: row.retired_at is not None
            for row in session.scalars(select(DataKey).where(DataKey.purpose == "seal"))
        }
        used = session.scalars(select(Template.data_key)).all()
        used += session.scalars(select(Image.data_key)).all()
    return keys, used


def require_all_there(api, helpers):
    for n in (0, 777, TEMPLATES - 1):
        vector = helpers.encode(helpers.unit_vector(n))
        body = {"templates": [{"vector": vector, "model_id": helpers.MODEL}], "limit": 1}
        rows = api.ok("POST", "/v1/collections/secret/search", json=body)["probes"][0]
        assert rows["candidates"][0]["person"]["name"] == f"P{n}"
    with api.services.database.read() as session:
        images = session.scalars(select(Image.id).order_by(Image.id)).all()
    kept = {api.call("GET", f"/v1/images/{one}/content").get_data() for one in images}
    assert kept == {picture(helpers, n) for n in range(PHOTOS)}


def run(api, key_file, *words):
    settings = api.services.settings
    environment = {"MUSTER_ENCRYPTION_KEY_FILE": str(key_file)}
    if settings.database_url is not None:
        environment["MUSTER_DATABASE_URL"] = settings.database_url
    command = ["keyring", *words, "--data-dir", str(settings.data_dir), "--json"]
    result = CliRunner(env=environment).invoke(main, command)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_new_master_key_takes_over_at_once(api, make_api, helpers, key_file):
    before = Keyring.from_file(key_file)
    sealed = state(api)
    answer = run(api, key_file, "rotate")
    after = Keyring.from_file(key_file)
    assert [key.id for key in after][1:] == [key.id for key in before]
    assert answer["master"] == after.current.id.hex() != before.current.id.hex()
    assert answer["data_keys"] == 2  # one seals, one makes digests
    assert key_file.stat().st_mode & 0o777 == 0o640
    assert state(api) == sealed  # the data itself was not touched
    listed = run(api, key_file, "list")
    assert [(one["data_keys"], one["current"]) for one in listed["keys"]] == [(2, True), (0, False)]
    key_file.write_text(after.current.text)  # the old key is needed no more
    require_all_there(make_api(encryption_key_file=key_file), helpers)
    require_all_there(api, helpers)  # the running server went on


def test_all_data_moves_under_new_keys_while_the_server_runs(api, make_api, helpers, key_file):
    old, used = state(api)
    assert len(used) == TEMPLATES + 2 * PHOTOS
    answer = run(api, key_file, "rotate", "--data")
    (one,) = answer["collections"]
    assert one == {"collection": "secret", "renewed": len(used), "left": 0, "damaged": 0}
    new, used = state(api)
    assert new.keys().isdisjoint(old)  # the retired key is destroyed
    assert set(used) == set(new)
    require_all_there(api, helpers)
    require_all_there(make_api(encryption_key_file=key_file), helpers)
    photos = [
        one for one in (api.services.settings.data_dir / "photos").rglob("*") if one.is_file()
    ]
    assert len(photos) == PHOTOS  # what was replaced is deleted
    person = api.ok("POST", PERSONS, json={"name": "Late"})["id"]  # the new master key is found
    body = {"template": helpers.encode(helpers.unit_vector(9999)), "model_id": helpers.MODEL}
    api.ok("POST", f"{PERSONS}/{person}/templates", json=body)
    api.ok("POST", "/v1/collections", json={"name": "second", "encrypted": True})
    listed = run(api, key_file, "list")
    assert [one["data_keys"] for one in listed["keys"]] == [4, 0]


KILLED = """
import os, signal, sys
from match_server.process.open_services import open_services
from match_server.settings import load_settings

def tell(progress):
    if progress.done >= {at}:
        os.kill(os.getpid(), signal.SIGKILL)

with open_services(load_settings()) as services:
    services.rotation.renew_data(tell)
"""


def test_what_is_killed_goes_on_and_nothing_is_lost(api, make_api, helpers, key_file):
    settings = api.services.settings
    environment = {
        "MUSTER_DATA_DIR": str(settings.data_dir),
        "MUSTER_ENCRYPTION_KEY_FILE": str(key_file),
    }
    if settings.database_url is not None:
        environment["MUSTER_DATABASE_URL"] = settings.database_url
    script = KILLED.format(at=600)

    died = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, timeout=120, check=False
    )
    assert died.returncode == -signal.SIGKILL
    keys, used = state(api)
    assert sorted(keys.values()) == [False, True]
    assert set(used) == set(keys)  # the middle of it
    assert run(api, key_file, "list")["data_unfinished"] is True
    require_all_there(api, helpers)
    require_all_there(make_api(encryption_key_file=key_file), helpers)

    masters = len(list(Keyring.from_file(key_file)))
    (one,) = run(api, key_file, "rotate", "--data")["collections"]
    assert 0 < one["renewed"] < TEMPLATES + 2 * PHOTOS
    assert one["left"] == 0
    assert len(list(Keyring.from_file(key_file))) == masters  # it went on, with the same key
    assert run(api, key_file, "list")["data_unfinished"] is False
    require_all_there(api, helpers)
    require_all_there(make_api(encryption_key_file=key_file), helpers)


@on_sqlite
def test_what_is_damaged_stays_and_keeps_its_key(api, helpers, key_file):
    with api.services.database.write() as session:
        row = session.scalars(select(Template).limit(1)).one()
        row.vector = row.vector[:-1] + bytes([row.vector[-1] ^ 1])
    (one,) = api.services.rotation.renew_data()
    assert (one.damaged, one.left) == (1, 1)
    keys, _ = state(api)
    assert sorted(keys.values()) == [False, True]


def test_making_a_key_never_overwrites_one(tmp_path):
    file = tmp_path / "deep.keys"
    run = CliRunner()
    made = run.invoke(main, ["keyring", "new", "--file", str(file), "--json"])
    assert made.exit_code == 0, made.output
    assert file.stat().st_mode & 0o777 == 0o600
    key = Keyring.from_file(file).current
    assert json.loads(made.stdout) == {"id": key.id.hex(), "file": str(file)}
    assert key.text not in made.output
    again = run.invoke(main, ["keyring", "new", "--file", str(file)])
    assert again.exit_code == 1
    assert "already" in again.output
    assert Keyring.from_file(file).current.id == key.id
    printed = run.invoke(main, ["keyring", "new"])
    assert Key.from_text(printed.stdout.strip()).id != key.id


def test_rotating_without_a_key_says_what_to_set(tmp_path):
    result = CliRunner().invoke(main, ["keyring", "rotate", "--data-dir", str(tmp_path / "data")])
    assert result.exit_code == 1
    assert "MUSTER_ENCRYPTION_KEY_FILE" in result.output


def test_what_is_enrolled_during_a_rotation_is_all_there(api, make_api, helpers, key_file):
    """Writers use the old or the new key; in both cases their data can be decrypted."""
    writers, stop = [make_api(encryption_key_file=key_file) for _ in range(2)], threading.Event()
    made: list[int] = []

    def enroll(writer, first):
        for n in range(first, first + 100):
            if stop.is_set():
                return
            body = {"template": helpers.encode(helpers.unit_vector(n)), "model_id": helpers.MODEL}
            person = writer.ok("POST", PERSONS, json={"name": f"P{n}"})["id"]
            writer.ok("POST", f"{PERSONS}/{person}/templates", json=body)
            made.append(n)

    threads = [
        threading.Thread(target=enroll, args=(writer, 10_000 * (1 + place)))
        for place, writer in enumerate(writers)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(made) >= 3, "3 persons are enrolled")
    results = [api.services.rotation.renew_data() for _ in range(3)]
    stop.set()
    for thread in threads:
        thread.join()
    assert all(one.damaged == 0 for (one,) in results)
    fresh = make_api(encryption_key_file=key_file)
    probes = [
        {"vector": helpers.encode(helpers.unit_vector(n)), "model_id": helpers.MODEL} for n in made
    ]
    body = {"templates": probes, "limit": 1}
    rows = fresh.ok("POST", "/v1/collections/secret/search", json=body)["probes"]
    assert [one["candidates"][0]["person"]["name"] for one in rows] == [f"P{n}" for n in made]
    (last,) = api.services.rotation.renew_data()  # nothing waits for its end for ever
    assert last.left == 0
