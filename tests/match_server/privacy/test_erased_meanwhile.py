"""A person who is erased during a longer task does not come back at its end."""

import io

import pytest
from sqlalchemy import func, select

from match_server.db.tables import DataKey, Image, Person, SpareTemplate, Template
from match_server.services.faces.face_engine import FaceEngine
from shared.encryption import Key

RED = (200, 0, 0)


@pytest.fixture
def api(make_api, tmp_path):
    file = tmp_path / "master.keys"
    file.write_text(Key.new().text)
    api = make_api(encryption_key_file=file)
    api.ok("POST", "/v1/collections", json={"name": "c", "encrypted": True})
    api.ok("POST", "/v1/collections/c/persons", json={"name": "Ann", "id": "ann"})
    return api


def _enroll(api, helpers):
    data = {"image": (io.BytesIO(helpers.paint((RED, 80))), "a.png")}
    return api.call("POST", "/v1/collections/c/persons/ann/images?store=1", data=data)


def _erase(api):
    api.services.erasures.erase("c", "ann")


def _require_nothing_left(api):
    with api.services.database.read() as session:
        for table in (Person, Image, Template, SpareTemplate):
            assert session.scalar(select(func.count()).select_from(table)) == 0, table
    photos = api.services.settings.data_dir / "photos"
    assert [one for one in photos.rglob("*") if one.is_file()] == []
    assert api.services.erasures.settle() == 0


def test_while_a_picture_of_hers_is_looked_at(api, helpers, monkeypatch):
    choose = FaceEngine.chosen

    def looked_at(*arguments, **options):
        result = choose(*arguments, **options)
        _erase(api)
        return result

    monkeypatch.setattr(FaceEngine, "chosen", looked_at)
    assert _enroll(api, helpers).status_code == 404
    _require_nothing_left(api)


def test_while_other_models_look_at_her_photo(api, helpers):
    assert _enroll(api, helpers).status_code == 201

    class Slow(helpers.PaintedFaces):
        def analyze(self, *arguments, **options):
            result = super().analyze(*arguments, **options)
            _erase(api)
            return result

    api.services.reembedding.prepare("c", FaceEngine("other@1", 512, Slow))
    _require_nothing_left(api)


def test_while_her_photo_is_encrypted_anew(api, helpers, monkeypatch):
    assert _enroll(api, helpers).status_code == 201
    files, read = api.services.files, type(api.services.files).read

    def read_and_erased(*arguments, **options):
        data = read(*arguments, **options)
        _erase(api)
        return data

    monkeypatch.setattr(type(files), "read", read_and_erased)
    api.services.rotation.renew_data()
    _require_nothing_left(api)
    with api.services.database.read() as session:  # and no old key is kept for it
        assert session.scalars(select(DataKey).where(DataKey.retired_at.is_not(None))).all() == []
