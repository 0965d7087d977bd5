"""The hash beside each template: written with it, verified with it, secret where it is."""

import pytest
from sqlalchemy import select, update

from match_server.db.tables import Template
from shared.encryption import Key


@pytest.fixture(params=["encrypted", "plain"])
def collection(request, make_api, tmp_path):
    file = tmp_path / "master.keys"
    file.write_text(Key.new().text)
    api = make_api(encryption_key_file=file)
    encrypted = request.param == "encrypted"
    api.ok("POST", "/v1/collections", json={"name": "c", "encrypted": encrypted})
    return api, encrypted


def _enroll(api, name, vector, helpers, collection="c"):
    api.ok("POST", f"/v1/collections/{collection}/persons", json={"name": name, "id": name})
    body = {"template": helpers.encode(vector), "model_id": helpers.MODEL}
    return api.ok("POST", f"/v1/collections/{collection}/persons/{name}/templates", json=body)


def _hashes(api):
    with api.services.database.read() as session:
        return session.scalars(select(Template.vector_hash).order_by(Template.number)).all()


def test_the_hash_of_a_known_photo_says_nothing_about_an_encrypted_collection(collection, helpers):
    api, encrypted = collection
    vector = helpers.unit_vector(1)
    _enroll(api, "Ann", vector, helpers)
    _enroll(api, "Bob", vector, helpers)
    api.person("Ann", vector)
    api.template(api.person("Bob"), vector)
    secret, again, *plain = _hashes(api)
    assert len(set(plain)) == 1
    assert len({secret, again, *plain}) == (3 if encrypted else 1)


def test_rows_without_a_hash_are_hashed_and_those_that_cannot_be_read_are_left(collection, helpers):
    api, _ = collection
    ids = [
        _enroll(api, name, helpers.unit_vector(place), helpers)["id"]
        for place, name in enumerate(("Ann", "Bob", "Eve"))
    ]
    before = _hashes(api)
    with api.services.database.write() as session:
        session.execute(update(Template).values(vector_hash=None))
        bob = session.scalars(select(Template).where(Template.id == ids[1])).one()
        bob.vector = bob.vector[:-7]
    for count in (2, 0):
        assert api.services.hashes.fill() == count
        assert _hashes(api) == [before[0], None, before[2]]
    api.ok("DELETE", f"/v1/templates/{ids[1]}")


def test_a_vector_that_does_not_fit_its_hash_is_compared_with_nothing(collection, helpers):
    api, _ = collection
    template = _enroll(api, "Ann", helpers.unit_vector(1), helpers)["id"]
    with api.services.database.write() as session:
        session.scalars(select(Template)).one().vector_hash ^= 1
    probe = {"template": helpers.encode(helpers.unit_vector(1)), "model_id": helpers.MODEL}
    ann = {"collection": "c", "person": "Ann"}
    for path, body in (
        ("/v1/verify", {"pair": [probe, ann]}),
        ("/v1/collections/c/search", {"template_id": template}),
    ):
        refusal = api.refused(500, "POST", path, json=body)
        assert template in refusal["message"]
        assert "its vector was changed after it was stored" in refusal["message"]
