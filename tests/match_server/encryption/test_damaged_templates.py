"""A damaged template is left out and reported; searches find all other persons."""

import json

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from match_server.commands.cli import main
from match_server.db.tables import Template
from match_server.schemas.feed import SnapshotQuery
from match_server.services.auth.keys import Principal
from shared.encryption import Key
from shared.wire.change_feed import SnapshotEnd, SnapshotPart


@pytest.fixture
def key_file(tmp_path):
    file = tmp_path / "master.keys"
    file.write_text(Key.new().text)
    return file


@pytest.fixture(params=["encrypted", "plain"])
def people(request, make_api, helpers, key_file):
    """Ann, Bob and Eve in a collection, and the API of another process that has not read them."""
    api = make_api(encryption_key_file=key_file)
    encrypted = request.param == "encrypted"
    api.ok("POST", "/v1/collections", json={"name": "c", "encrypted": encrypted})
    for number, name in enumerate(("Ann", "Bob", "Eve")):
        api.ok("POST", "/v1/collections/c/persons", json={"name": name, "id": name})
        _add(api, name, helpers.unit_vector(number), helpers)
    return api, lambda: make_api(encryption_key_file=key_file)


def _add(api, person, vector, helpers):
    body = {"template": helpers.encode(vector), "model_id": helpers.MODEL}
    return api.ok("POST", f"/v1/collections/c/persons/{person}/templates", json=body)


def _best(api, vector, helpers):
    body = {"templates": [{"vector": helpers.encode(vector), "model_id": helpers.MODEL}]}
    candidates = api.ok("POST", "/v1/collections/c/search", json=body)["probes"][0]["candidates"]
    return {one["person"]["name"] for one in candidates}


def _damage(services, person, how):
    """Change the first template of a person as a disk would."""
    with services.database.write() as session:
        rows = session.scalars(select(Template).order_by(Template.number)).all()
        row = rows[("Ann", "Bob", "Eve").index(person)]
        row.vector = how(bytearray(row.vector))
        return row.id


def _cut(vector):
    return bytes(vector[:-7])


def _flip_in_the_body(vector):
    vector[-20] ^= 1
    return bytes(vector)


def _flip_in_the_keys_id(vector):
    vector[6] ^= 1
    return bytes(vector)


def _no_number(vector):
    return b"\x00\x7e" + bytes(vector[2:])  # float16's NaN


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("how", [_cut, _flip_in_the_body, _flip_in_the_keys_id, _no_number])
def test_one_damaged_row_keeps_nobody_else_from_being_found(people, helpers, how, caplog):
    api, another = people
    damaged = _damage(api.services, "Bob", how)
    fresh = another()
    assert _best(fresh, helpers.unit_vector(0), helpers) == {"Ann", "Eve"}
    assert damaged in {getattr(one, "template", None) for one in caplog.records}
    _add(fresh, "Ann", helpers.unit_vector(7), helpers)  # the feed is followed as before
    assert _best(fresh, helpers.unit_vector(7), helpers) == {"Ann", "Eve"}
    ready = fresh.ok("GET", "/readyz", None)
    (check,) = [one for one in ready["checks"] if one["name"] == "templates"]
    assert (ready["status"], check["ok"]) == ("ready", False)
    assert check["message"].startswith("1 templates cannot be read")


def test_a_row_that_is_damaged_before_a_follower_reads_it_is_set_aside(people, helpers):
    api, another = people
    fresh = another()
    assert _best(fresh, helpers.unit_vector(0), helpers) == {"Ann", "Bob", "Eve"}
    late = _add(api, "Bob", helpers.unit_vector(9), helpers)["id"]
    with api.services.database.write() as session:
        row = session.scalars(select(Template).where(Template.id == late)).one()
        row.vector = row.vector[:-7]
    assert _best(fresh, helpers.unit_vector(0), helpers) == {"Ann", "Bob", "Eve"}
    assert fresh.services.galleries.damaged() == 1
    api.ok("DELETE", f"/v1/templates/{late}")
    assert _best(fresh, helpers.unit_vector(0), helpers) == {"Ann", "Bob", "Eve"}
    assert fresh.services.galleries.damaged() == 0


@pytest.mark.backends("sqlite")
def test_boxes_are_given_the_others(people):
    api, _ = people
    _damage(api.services, "Bob", _cut)
    admin = Principal("k", "admin")
    query = SnapshotQuery(collection="c")
    feed = api.services.feed
    lines = list(feed.snapshot(feed.followed(query, admin), query))
    part, end = (
        SnapshotPart.model_validate_json(lines[1]),
        SnapshotEnd.model_validate_json(lines[2]),
    )
    assert (len(part.templates.numbers), end.templates) == (2, 2)
    assert part.templates.rows(512).shape == (2, 512)


def test_the_doctor_names_the_template_and_says_what_to_do(people, key_file):
    api, _ = people
    settings = api.services.settings
    environment = {"MUSTER_ENCRYPTION_KEY_FILE": str(key_file)}
    if settings.database_url:
        environment["MUSTER_DATABASE_URL"] = settings.database_url

    def check():
        command = ["doctor", "--json", "--data-dir", str(settings.data_dir)]
        result = json.loads(CliRunner().invoke(main, command, env=environment).stdout)
        (one,) = [one for one in result["checks"] if one["name"] == "templates"]
        return one["ok"], one["message"]

    assert check() == (True, "every template can be read")
    damaged = _damage(api.services, "Eve", _cut)
    ok, message = check()
    assert not ok
    assert f"{damaged} of c" in message
