"""Encrypted collections: no face data in plain text; without the key other collections work."""

import base64
import hashlib
import io
import json
import logging

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from sqlalchemy import LargeBinary, select, update

from match_server.db.tables import Collection, DataKey, Image, Table, Template
from shared.encryption import Key

RED = (0, 0, 200)

on_sqlite = pytest.mark.backends("sqlite")  # nothing in it depends on the database


@pytest.fixture
def key_file(tmp_path):
    file = tmp_path / "master.keys"
    file.write_text(f"# of this test\n{Key.new().text}\n")
    return file


@pytest.fixture
def api(make_api, key_file):
    made = make_api(encryption_key_file=key_file)
    made.ok("POST", "/v1/collections", json={"name": "secret", "encrypted": True})
    return made


def _person(api, collection, name):
    return api.ok("POST", f"/v1/collections/{collection}/persons", json={"name": name})["id"]


def _enroll(api, collection, person, picture, **more):
    return api.ok(
        "POST",
        f"/v1/collections/{collection}/persons/{person}/images",
        data={"image": (io.BytesIO(picture), "a.png")},
        query_string={"store": 1, **more},
    )


def _add(api, collection, person, vector, helpers):
    return api.ok(
        "POST",
        f"/v1/collections/{collection}/persons/{person}/templates",
        json={"template": helpers.encode(vector), "model_id": helpers.MODEL},
    )


def _add_all(api, collection, named, helpers):
    lines = [
        {"name": name, "template": helpers.encode(vector), "model_id": helpers.MODEL}
        for name, vector in named.items()
    ]
    response = api.call(
        "POST",
        f"/v1/collections/{collection}/enroll",
        data="\n".join(map(json.dumps, lines)),
        content_type="application/x-ndjson",
    )
    assert response.get_data(as_text=True).count('"accepted"') == len(named)


def _search(api, collection, vector, helpers, **more):
    body = {"templates": [{"vector": helpers.encode(vector), "model_id": helpers.MODEL}], **more}
    return api.ok("POST", f"/v1/collections/{collection}/search", json=body)["probes"][0]


def _names(api, collection, vector, helpers):
    actual = _search(api, collection, vector, helpers)
    return [one["person"]["name"] for one in actual["candidates"]]


def _use_for_probes(services, collection):
    """Let probes search this collection."""
    services.probes._default_collection = collection


def _everything_at_rest(services):
    """All bytes of the data folder with the write-ahead log, and all values of the database."""
    folder = services.settings.data_dir
    held = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    with services.database.read() as session:
        for table in Table.metadata.sorted_tables:
            blobs = [one for one in table.columns if isinstance(one.type, LargeBinary)]
            for row in session.execute(select(*blobs)) if blobs else []:
                held += [bytes(value) for value in row if value is not None]
    return held


@pytest.mark.parametrize("collection", ["secret", "default"])
def test_nothing_of_a_face_rests_in_the_clear(api, helpers, collection):
    picture, vector = helpers.paint((RED, 80)), helpers.unit_vector(5)
    person = _person(api, collection, "Ann")
    _enroll(api, collection, person, picture)
    _add(api, collection, person, vector, helpers)
    _use_for_probes(api.services, collection)
    probe = api.probe(vector)
    (result,) = api.send(probe)
    assert result["event"]["person"]["name"] == "Ann"
    _names(api, collection, vector, helpers)
    api.services.galleries.close()  # seals what is in memory only
    seen = helpers.unit_vector(int.from_bytes(bytes(RED), "big"))  # the template of the picture
    secrets = {
        "template": vector.astype("<f2").tobytes(),
        "template of the picture": seen.astype("<f2").tobytes(),
        "photo": picture,
        "thumbnail": base64.b64decode(probe["thumbnail"]),
    }
    held = _everything_at_rest(api.services)
    actual = {
        what
        for what, secret in secrets.items()
        # pieces too: a page boundary may cut a value in two
        if any(secret[at : at + 64] in one for one in held for at in (0, 100, len(secret) - 64))
    }
    assert actual == (set() if collection == "secret" else set(secrets))


@on_sqlite
def test_photos_in_a_bucket_are_encrypted_too(api, helpers, monkeypatch):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        bucket = boto3.resource("s3").Bucket("sealed-photos")
        bucket.create()
        api.ok("POST", "/v1/storages", json={"name": "far", "uri": "s3://sealed-photos"})
        picture = helpers.paint((RED, 80))
        made = {
            name: _enroll(api, name, _person(api, name, "Ann"), picture, storage="far")
            for name in ("secret", "default")
        }
        lying = [one.get()["Body"].read() for one in bucket.objects.all()]
        assert sorted(one == picture for one in lying) == [False, True]
        assert sorted(picture[-64:] in one for one in lying) == [False, True]
        assert api.call("GET", made["secret"]["url"]).get_data() == picture
        (renewed,) = api.services.rotation.renew_data()
        assert (renewed.done, renewed.left) == (2, 0)
        assert api.call("GET", made["secret"]["url"]).get_data() == picture
        assert len(list(bucket.objects.all())) == 2
        bucket.objects.all().delete()
        bucket.delete()
    finally:
        server.stop()


def test_encrypted_collections_are_used_like_others(api, helpers):
    picture = helpers.paint((RED, 80))
    near = helpers.unit_vector(2, near=helpers.unit_vector(1), similarity=0.8)
    ann, bob = _person(api, "secret", "Ann"), _person(api, "secret", "Bob")
    template = _add(api, "secret", ann, helpers.unit_vector(1), helpers)["id"]
    made = _enroll(api, "secret", bob, picture)
    assert api.ok("GET", "/v1/collections/secret")["encrypted"] is True
    assert api.ok("GET", "/v1/collections/default")["encrypted"] is False
    assert _names(api, "secret", near, helpers)[0] == "Ann"
    assert api.call("GET", made["url"]).get_data() == picture
    again = _enroll(api, "secret", bob, picture)
    assert again["duplicate"] is True
    actual = api.ok("POST", "/v1/collections/secret/search", json={"template_id": template})
    assert actual["probes"][0]["candidates"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    side = {"template": helpers.encode(near), "model_id": helpers.MODEL}
    answer = api.ok(
        "POST", "/v1/verify", json={"pair": [{"collection": "secret", "person": ann}, side]}
    )
    assert answer["similarity"] == pytest.approx(0.8, abs=2e-3)
    many = {f"P{n}": helpers.unit_vector(n) for n in range(10, 30)}
    _add_all(api, "secret", many, helpers)
    assert _names(api, "secret", helpers.unit_vector(20), helpers)[0] == "P20"
    _use_for_probes(api.services, "secret")
    probe = api.probe(near)
    (result,) = api.send(probe)
    shown = api.call("GET", result["event"]["snapshot"]).get_data()
    assert shown == base64.b64decode(probe["thumbnail"])


def test_a_fresh_process_opens_what_another_sealed(api, make_api, helpers, key_file):
    ann = _person(api, "secret", "Ann")
    _add(api, "secret", ann, helpers.unit_vector(1), helpers)
    other = make_api(encryption_key_file=key_file)
    assert _names(other, "secret", helpers.unit_vector(1), helpers) == ["Ann"]
    _add(api, "secret", ann, helpers.unit_vector(2), helpers)  # follows the feed
    assert _search(other, "secret", helpers.unit_vector(2), helpers)["candidates"][0][
        "similarity"
    ] == pytest.approx(1, abs=1e-3)


@on_sqlite
def test_without_the_key_encrypted_collections_answer_503_and_others_work(
    api, make_api, helpers, caplog
):
    ann = _person(api, "secret", "Ann")
    made = _enroll(api, "secret", ann, helpers.paint((RED, 80)))
    vector = helpers.unit_vector(1)
    _add(api, "default", _person(api, "default", "Bob"), vector, helpers)

    keyless = make_api()
    keyless.services.galleries.warm()
    assert "Failed to follow a gallery" in caplog.text
    assert _names(keyless, "default", vector, helpers) == ["Bob"]
    addition = {"template": helpers.encode(vector), "model_id": helpers.MODEL}
    body = {"templates": [{"vector": helpers.encode(vector), "model_id": helpers.MODEL}]}
    persons = "/v1/collections/secret/persons"
    for method, path, sent in (
        ("POST", "/v1/collections/secret/search", {"json": body}),
        ("POST", f"{persons}/{ann}/templates", {"json": addition}),
        ("GET", made["url"], {}),
        ("POST", "/v1/collections", {"json": {"name": "more", "encrypted": True}}),
    ):
        refused = keyless.refused(503, method, path, **sent)
        assert refused["code"] == "key_missing", path
        assert "MUSTER_ENCRYPTION_KEY_FILE" in refused["message"]
    ready = keyless.ok("GET", "/readyz", None)
    (check,) = (one for one in ready["checks"] if one["name"] == "encryption")
    assert ready["status"] == "ready"
    assert not check["ok"]
    assert "1 encrypted" in check["message"]
    assert "secret" not in check["message"]
    assert keyless.ok("GET", f"{persons}/{ann}")["name"] == "Ann"  # names are not encrypted
    healthy = api.ok("GET", "/readyz", None)
    assert all(one["name"] != "encryption" for one in healthy["checks"])


@on_sqlite
def test_with_another_key_the_error_names_the_key_that_is_missing(api, make_api, helpers, tmp_path):
    other = tmp_path / "other.keys"
    other.write_text(Key.new().text)
    wrong = make_api(encryption_key_file=other)
    with api.services.database.read() as session:
        (master,) = set(session.scalars(select(DataKey.master_id)))
    body = {
        "templates": [{"vector": helpers.encode(helpers.unit_vector(1)), "model_id": helpers.MODEL}]
    }
    refused = wrong.refused(503, "POST", "/v1/collections/secret/search", json=body)
    assert master in refused["message"]


@pytest.mark.parametrize("target", ["template", "photo"])
def test_rows_and_files_that_change_places_are_noticed(api, make_api, helpers, key_file, target):
    people = [_person(api, "secret", name) for name in ("Ann", "Bob")]
    made = [
        _enroll(api, "secret", people[0], helpers.paint((RED, 80))),
        _enroll(api, "secret", people[1], helpers.paint(((200, 0, 0), 80))),
    ]
    with api.services.database.write() as session:
        if target == "template":
            rows = session.scalars(select(Template).order_by(Template.number)).all()
            rows[0].vector, rows[1].vector = rows[1].vector, rows[0].vector
        else:
            names = session.scalars(select(Image.file).order_by(Image.id)).all()
            files = [api.services.settings.data_dir / name for name in names]
            contents = [file.read_bytes() for file in files]
            files[0].write_bytes(contents[1])
            files[1].write_bytes(contents[0])
    other = make_api(encryption_key_file=key_file)
    if target == "template":
        body = {"template_id": made[0]["template_id"]}
        refused = other.refused(500, "POST", "/v1/collections/secret/search", json=body)
    else:
        refused = other.refused(500, "GET", made[0]["url"])
    assert refused["code"] == "damaged"


@on_sqlite
def test_the_same_photo_cannot_be_recognised_by_its_checksum(api, helpers):
    picture = helpers.paint((RED, 80))
    for collection in ("secret", "default"):
        _enroll(api, collection, _person(api, collection, "Ann"), picture)
    with api.services.database.read() as session:
        digests = session.scalars(select(Image.sha256)).all()
    plain = hashlib.sha256(picture).digest()
    assert sorted(one == plain for one in digests) == [False, True]


def test_a_deleted_collection_takes_its_data_keys_along(api, helpers):
    _enroll(api, "secret", _person(api, "secret", "Ann"), helpers.paint((RED, 80)))
    with api.services.database.read() as session:
        assert len(session.scalars(select(DataKey)).all()) == 2
    assert api.ok("DELETE", "/v1/collections/secret")["data_keys"] == 2
    with api.services.database.read() as session:
        assert session.scalars(select(DataKey)).all() == []


@on_sqlite
def test_a_plain_row_in_an_encrypted_collection_is_not_believed(api, make_api, helpers, key_file):
    ann = _person(api, "secret", "Ann")
    template = _add(api, "secret", ann, helpers.unit_vector(1), helpers)["id"]
    planted = helpers.unit_vector(2).astype("<f2").tobytes()
    with api.services.database.write() as session:
        session.execute(update(Template).where(Template.id == template).values(vector=planted))
    other = make_api(encryption_key_file=key_file)
    body = {"template_id": template}
    assert other.refused(500, "POST", "/v1/collections/secret/search", json=body)["code"] == (
        "damaged"
    )


@on_sqlite
def test_keys_are_in_no_log_and_no_answer(api, make_api, helpers, key_file, caplog):
    with caplog.at_level(logging.DEBUG):
        _enroll(api, "secret", _person(api, "secret", "Ann"), helpers.paint((RED, 80)))
        make_api().call("POST", "/v1/collections", json={"name": "x", "encrypted": True})
    secret = key_file.read_text().split()[-1]
    assert secret not in caplog.text
    assert secret not in repr(api.services.settings)


@on_sqlite
def test_templates_of_encrypted_collections_are_never_in_segments(api, helpers):
    ann = _person(api, "secret", "Ann")
    _add(api, "secret", ann, helpers.unit_vector(1), helpers)
    _names(api, "secret", helpers.unit_vector(1), helpers)
    api.services.galleries.close()
    with api.services.database.read() as session:
        number = session.scalar(select(Collection.number).where(Collection.name == "secret"))
    assert not (api.services.settings.data_dir / "galleries" / str(number)).exists()


@on_sqlite
def test_similarities_are_those_of_a_plain_collection(api, helpers):
    near = np.stack([helpers.unit_vector(n) for n in range(20)])
    for collection in ("secret", "default"):
        _add_all(api, collection, {f"P{n}": vector for n, vector in enumerate(near)}, helpers)
    probe = helpers.unit_vector(99, near=near[3], similarity=0.6)
    lists = [
        [(one["person"]["name"], one["similarity"]) for one in actual["candidates"]]
        for actual in (_search(api, name, probe, helpers) for name in ("secret", "default"))
    ]
    assert lists[0] == lists[1]
