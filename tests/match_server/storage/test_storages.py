"""Storages: photos in folders and in a bucket of a real S3 server, and their erasure."""

import base64
import io
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from match_server.services.storage.backends import Bucket, Folder, checked_uri
from shared.errors import MalformedInput, NotFound, Unavailable

PERSONS = "/v1/collections/default/persons"
RED = (0, 0, 200)


@pytest.fixture(scope="module")
def s3_server():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """A new bucket; credentials and endpoint come from the environment, as in production."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
    }.items():
        monkeypatch.setenv(name, value)
    made = boto3.resource("s3").Bucket("photos")
    made.create()
    yield made
    made.objects.all().delete()
    made.delete()


@pytest.fixture(params=["file", "s3"])
def storage(request, api, tmp_path):
    """A storage of each kind, and a function that lists its files."""
    if request.param == "file":
        folder = tmp_path / "elsewhere"
        uri, listed = (
            f"file://{folder}",
            lambda: [
                one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()
            ],
        )
    else:
        result = request.getfixturevalue("bucket")
        uri = "s3://photos/muster"
        listed = lambda: [one.key.removeprefix("muster/") for one in result.objects.all()]  # noqa: E731
    made = api.ok("POST", "/v1/storages", json={"name": "archive", "uri": uri})
    assert (made["uri"], made["images"]) == (uri, 0)
    assert listed() == []  # the file that tried it is gone
    return listed


def _enroll(api, person, picture, **parameters):
    response = api.call(
        "POST",
        f"{PERSONS}/{person}/images",
        data={"image": (io.BytesIO(picture), "a.png")},
        query_string=parameters,
    )
    assert response.status_code == 201, response.get_data(as_text=True)
    return response.get_json()


def test_a_photo_lies_in_its_storage_is_read_from_there_and_erased_there(api, helpers, storage):
    picture = helpers.paint((RED, 80))
    person = api.person("Ann")
    made = _enroll(api, person, picture, storage="archive")
    (name,) = storage()
    assert name.startswith("photos/")
    content = api.call("GET", made["url"])
    assert (content.data, content.content_type) == (picture, "image/png")
    view = api.ok("GET", f"/v1/images/{made['image_id']}")
    assert (view["stored"], view["storage"]) == (True, "archive")
    assert api.ok("GET", "/v1/storages")["items"][0]["images"] == 1
    here = api.services.settings.data_dir / "photos"
    assert not [one for one in here.rglob("*") if one.is_file()]
    erased = api.ok("DELETE", f"{PERSONS}/{person}")
    assert (erased["images"], erased["pending"]) == (1, 0)
    assert storage() == []
    assert api.ok("DELETE", "/v1/storages/archive")["name"] == "archive"


def test_deleting_an_image_or_a_collection_empties_the_storage(api, helpers, storage):
    person = api.person("Ann")
    first = _enroll(api, person, helpers.paint((RED, 80)), storage="archive")
    _enroll(api, person, helpers.paint((RED, 70)), storage="archive")
    _enroll(api, person, helpers.paint((RED, 60)), store=1)
    assert len(storage()) == 2
    assert api.ok("DELETE", f"/v1/images/{first['image_id']}")["pending"] == 0
    assert len(storage()) == 1
    erased = api.ok("DELETE", "/v1/collections/default")
    assert (erased["images"], erased["pending"]) == (2, 0)
    assert storage() == []


def test_a_storage_with_photos_in_it_is_not_forgotten(api, helpers, storage):
    _enroll(api, api.person("Ann"), helpers.paint((RED, 80)), storage="archive")
    body = api.refused(409, "DELETE", "/v1/storages/archive")
    assert body["details"]["images"] == 1


def test_what_was_not_enrolled_in_the_end_leaves_no_file(api, helpers, storage):
    api.ok("PATCH", "/v1/collections/default", json={"max_templates": 1})
    person = api.person("Ann", helpers.unit_vector(1))
    image = base64.b64encode(helpers.paint((RED, 80))).decode()
    body = {"image": image, "storage": "archive"}
    api.refused(409, "POST", f"{PERSONS}/{person}/images", json=body)
    assert storage() == []


def test_a_batch_keeps_its_photos_in_a_storage(api, helpers, storage):
    parts = [(io.BytesIO(helpers.paint((RED, 80))), "Ann/a.png")]
    response = api.call(
        "POST",
        "/v1/collections/default/enroll",
        data={"images": parts},
        query_string={"storage": "archive"},
    )
    assert response.get_json(force=True)["status"] == "accepted"
    assert len(storage()) == 1


def test_a_storage_that_does_not_answer_keeps_the_erasure_pending_until_it_does(
    api, helpers, storage, monkeypatch
):
    person, other = api.person("Ann"), api.person("Bob")
    _enroll(api, person, helpers.paint((RED, 80)), storage="archive")

    def silent(self, name):
        raise Unavailable("no answer")

    with monkeypatch.context() as patched:
        for place in (Bucket, Folder):
            patched.setattr(place, "delete", silent)
        erased = api.ok("DELETE", f"{PERSONS}/{person}")
        assert erased["pending"] == 1
        api.refused(404, "GET", f"{PERSONS}/{person}")
        api.refused(409, "DELETE", "/v1/storages/archive")
    assert len(storage()) == 1
    assert api.ok("DELETE", f"{PERSONS}/{other}")["pending"] == 0
    assert storage() == []


def test_an_s3_server_that_is_gone_is_503_and_a_bucket_that_is_none_is_422(
    api, helpers, bucket, monkeypatch
):
    body = {"name": "no", "uri": "s3://no-such-bucket/x"}
    assert api.refused(422, "POST", "/v1/storages", json=body)["details"]["reasons"] == ["storage"]
    api.ok("POST", "/v1/storages", json={"name": "archive", "uri": "s3://photos/x"})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # no server there
    api.services.files._backends.clear()  # as after a restart
    image = base64.b64encode(helpers.paint((RED, 80))).decode()
    person = api.person("Ann")
    body = {"image": image, "storage": "archive"}
    answer = api.refused(503, "POST", f"{PERSONS}/{person}/images", json=body)
    assert "test-secret" not in str(answer)
    assert api.ok("GET", "/v1/collections/default")["templates"] == 0


def test_a_storage_that_is_not_there_is_named(api, helpers):
    image = base64.b64encode(helpers.paint((RED, 80))).decode()
    body = {"image": image, "storage": "nowhere"}
    answer = api.refused(404, "POST", f"{PERSONS}/{api.person('Ann')}/images", json=body)
    assert "nowhere" in answer["message"]
    api.refused(404, "DELETE", "/v1/storages/nowhere")


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize(
    "uri",
    [
        "photos",
        "/photos",
        "file:photos",
        "file://host/photos",
        "file:///photos/../etc",
        "file:///photos/%2e%2e/etc",
        "file:///photos%00",
        "s3:///key",
        "s3://key:secret@bucket",
        "s3://bucket?key=secret",
        "http://example.org/x",
        "ftp://example.org/x",
        "memory://x",
        "s3://[",
    ],
)
def test_a_uri_that_is_no_place_for_photos_is_refused(api, uri):
    with pytest.raises(MalformedInput):
        checked_uri(uri)
    api.refused(400, "POST", "/v1/storages", json={"name": "x", "uri": uri})
    assert api.ok("GET", "/v1/storages")["total"] == 0


def test_a_folder_that_cannot_be_made_is_said_at_once(api, tmp_path):
    (tmp_path / "file").write_text("in the way")
    body = {"name": "x", "uri": f"file://{tmp_path}/file/below"}
    assert api.refused(422, "POST", "/v1/storages", json=body)["code"] == "unusable"


def test_names_are_given_once_and_only_administrators_give_them(api, tmp_path):
    body = {"name": "x", "uri": f"file://{tmp_path}/x"}
    api.refused(403, "POST", "/v1/storages", "enroller", json=body)
    api.ok("POST", "/v1/storages", json=body)
    api.refused(409, "POST", "/v1/storages", json=body)
    assert api.ok("GET", "/v1/storages", "enroller")["total"] == 1
    for role in ("viewer", "searcher", "device"):
        api.refused(403, "GET", "/v1/storages", role)


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_place_keeps_gives_back_and_forgets(kind, tmp_path, request):
    if kind == "folder":
        place = Folder(Path(tmp_path / "deep" / "er"))
    else:
        request.getfixturevalue("bucket")
        place = Bucket("s3://photos/deep/er")
    place.write("photos/ab/x", b"one")
    assert place.read("photos/ab/x") == b"one"
    place.delete("photos/ab/x")
    place.delete("photos/ab/x")
    with pytest.raises(NotFound):
        place.read("photos/ab/x")
