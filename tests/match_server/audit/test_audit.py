"""The audit log: every change has an entry in its transaction, and tampering is detected."""

import contextlib
import io
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner
from sqlalchemy import insert, select, text, update

from match_server.commands.cli import main
from match_server.db.tables import AuditEntry, AuditHead, Collection
from match_server.schemas.audit import Anchor, AuditQuery
from match_server.services.audit.chain import Actor, Note, act_as, entry_hash, note
from match_server.services.audit.reader import anchor_of
from shared.errors import MalformedInput, MusterError

PERSONS = "/v1/collections/default/persons"


@pytest.fixture(autouse=True)
def nobody():
    """The test client leaves responses open, so the actor of the last request stays set."""
    act_as(Actor())


def _entries(api, **filters):
    """All entries, the newest last."""
    query = AuditQuery(size=1000, **filters)
    return list(reversed(api.services.audit.page(query).items))


def _actions(api, **filters):
    return [one.action for one in _entries(api, **filters)]


def test_every_change_is_told_with_who_what_when_whom_and_by_which_request(api, helpers, clock):
    for role in ("admin", "enroller"):
        api.key(role)
    clock.advance(60)
    headers = {"X-Request-Id": "r-4711"}
    body = {"name": "Ann", "id": "p1"}
    api.ok("POST", PERSONS, "enroller", json=body, headers=headers)
    api.template("p1", helpers.unit_vector(1))
    (created, added) = _entries(api, person="p1")
    assert created.action == "person_created"
    assert created.actor == f"key {api.key('enroller').split('_')[1]}"
    assert (created.role, created.request_id, created.at) == ("enroller", "r-4711", clock.now())
    assert created.collection == "default"
    assert (added.action, added.person) == ("template_added", "p1")
    assert added.role == "admin"
    assert _actions(api, actor=created.actor) == ["person_created"]
    assert _actions(api, since=clock.now(), request_id="r-4711") == ["person_created"]


def test_administration_is_told(api):
    made = api.ok("POST", "/v1/keys", json={"role": "viewer", "name": "wall"})
    api.ok("DELETE", f"/v1/keys/{made['id']}")
    api.ok("PATCH", "/v1/collections/default", json={"policy": {"margin": 0.1}})
    assert _actions(api, subject=made["id"]) == ["key_created", "key_revoked"]
    changed = _entries(api, action="collection_updated")[-1]
    assert (changed.subject, changed.details) == ("default", {"fields": ["policy"]})


def test_a_batch_is_told_in_one_entry_that_leads_to_the_feed(api, helpers):
    vectors = [helpers.encode(helpers.unit_vector(seed)) for seed in range(5)]
    lines = [
        {"name": f"P{place}", "template": one, "model_id": helpers.MODEL}
        for place, one in enumerate(vectors)
    ]
    body = "\n".join(json.dumps(one) for one in lines)
    path = "/v1/collections/default/enroll"
    response = api.call("POST", path, "enroller", data=body, content_type="application/x-ndjson")
    verdicts = [json.loads(line) for line in response.get_data(as_text=True).splitlines()]
    (entry,) = _entries(api, action="templates_added")
    assert entry.details["count"] == 5
    assert entry.details["first_seq"] == verdicts[0]["seq"]
    assert entry.role == "enroller"  # although it was written while the answer was streamed


def test_a_transaction_that_tells_nothing_is_told_as_the_call_that_made_it(api):
    services = api.services
    act_as(Actor("key 0a", call="PUT /v1/new", subject="x"))
    try:
        for _ in range(2):  # one entry for a request with several transactions
            with services.database.write() as session:
                session.execute(update(Collection).values(max_templates=5))
    finally:
        act_as(Actor())
    with services.database.write() as session:  # no request: the server itself
        session.execute(update(Collection).values(max_templates=6))
    assert [(one.action, one.subject) for one in _entries(api, actor="key 0a")] == [
        ("PUT /v1/new", "x")
    ]


def test_what_is_rolled_back_is_not_told(api, clock):
    api.key("admin")
    before = api.services.audit.head()
    with contextlib.suppress(MusterError), api.services.database.write() as session:
        note(session, Note("never", clock.now()))
        raise MusterError("changed my mind")
    api.refused(409, "POST", "/v1/collections", json={"name": "default"})
    assert api.services.audit.head() == before


def test_photos_and_lists_of_templates_are_told_each_before_the_answer(api, helpers):
    person = api.person("Ann", id="p1")
    picture = helpers.paint(((200, 10, 10), 60))
    image = api.ok(
        "POST", f"{PERSONS}/{person}/images?store=1", data={"image": (io.BytesIO(picture), "a.png")}
    )["image_id"]
    api.call("GET", f"/v1/images/{image}/content", "searcher")
    api.ok("GET", f"{PERSONS}/{person}/templates", "searcher")
    api.refused(404, "GET", "/v1/images/none/content", "searcher")
    entries = [(one.action, one.subject) for one in _entries(api) if one.role == "searcher"]
    assert entries == [
        ("GET /v1/images/<image>/content", image),
        ("GET /v1/collections/<collection>/persons/<person>/templates", "default"),
    ]


def test_searches_and_thumbnails_are_gathered_into_one_entry_of_a_key(api, helpers):
    api.person("Ann", helpers.unit_vector(1))
    event = api.send(api.probe(helpers.unit_vector(1)))[0]["event"]
    for _ in range(3):
        api.search(helpers.unit_vector(1))
        api.call("GET", f"/v1/events/{event['id']}/snapshot", "viewer")
    path = "POST /v1/collections/<collection>/search"
    assert _entries(api, action=path) == []
    api.services.access.flush()
    (searched,) = _entries(api, action=path)
    assert (searched.details["times"], searched.details["of"]) == (3, {"default": 3})
    (seen,) = _entries(api, action="GET /v1/events/<event>/snapshot")
    assert (seen.role, seen.details["of"]) == ("viewer", {event["id"]: 3})


def test_what_cannot_be_written_now_stays_gathered(api, helpers, monkeypatch):
    api.search(helpers.unit_vector(1))
    with monkeypatch.context() as broken:
        broken.setattr(api.services.database, "write", _fail)
        with pytest.raises(MusterError):
            api.services.access.flush()
    api.search(helpers.unit_vector(1))
    api.services.access.flush()
    (entry,) = _entries(api, action="POST /v1/collections/<collection>/search")
    assert entry.details["times"] == 2


def _fail():
    raise MusterError("the database is away")


def test_where_the_owner_wants_it_each_search_is_told(make_api, helpers):
    api = make_api(audit_searches="each")
    for _ in range(2):
        api.search(helpers.unit_vector(1))
    assert len(_entries(api, action="POST /v1/collections/<collection>/search")) == 2


def test_probes_are_rows_of_their_own_and_not_told(api, helpers):
    api.key("device")
    before = api.services.audit.head()
    api.send(api.probe(helpers.unit_vector(1)))
    assert api.services.audit.head() == before


def test_the_log_holds_no_names_and_nothing_biometric(api, helpers):
    vector = helpers.unit_vector(1)
    person = api.person(
        "Very-Rare-Name", vector, external_id="Payroll-99", metadata={"a": "Secret"}
    )
    api.search(vector)
    api.ok("PATCH", f"{PERSONS}/{person}", json={"name": "Other-Rare-Name"})
    api.ok("DELETE", f"{PERSONS}/{person}")
    api.services.access.flush()
    everything = "".join(one.model_dump_json() for one in _entries(api))
    for secret in ("Rare-Name", "Payroll", "Secret", helpers.encode(vector)[:30]):
        assert secret not in everything


def test_only_an_admin_reads_it_page_by_page(api):
    for number in range(7):
        api.person(f"P{number}")
    page = api.ok("GET", "/v1/audit?size=3&page=2&action=person_created")
    assert (page["total"], len(page["items"])) == (7, 3)
    numbers = [one["number"] for one in page["items"]]
    assert numbers == sorted(numbers, reverse=True)
    for role in ("enroller", "searcher", "viewer", "device"):
        api.refused(403, "GET", "/v1/audit", role)
    assert api.ok("GET", "/v1/audit/anchor")["number"] >= 7


def test_the_chain_is_whole_after_many_writers_of_two_processes_at_once(api, make_services):
    everybody = [api.services, make_services()]

    def write(number):
        services = everybody[number % 2]
        act_as(Actor(f"writer {number}"))
        with services.database.write() as session:
            note(session, Note("tested", services.clock.now(), subject=str(number)))
            note(session, Note("tested again", services.clock.now(), subject=str(number)))

    before = api.services.audit.head().number
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(60)))
    actual = api.services.audit.verify()
    assert (actual.problem, actual.head.number) == (None, before + 120)
    entries = [one for one in _entries(api) if one.action.startswith("tested")]
    assert sorted(one.subject for one in entries) == sorted(2 * [str(n) for n in range(60)])
    assert all(one.actor == f"writer {one.subject}" for one in entries)


# -- bending it ------------------------------------------------------------------------------


@pytest.fixture
def bend(api):
    """Runs SQL without the triggers, as an attacker with access to the database."""
    api.key("admin")
    for number in range(8):
        api.person(f"P{number}", id=f"p{number}")
    database = api.services.database
    assert api.services.audit.verify().problem is None

    def run(*statements):
        with database.connection() as connection:
            if database.is_sqlite:
                for name in ("update", "delete"):
                    connection.execute(text(f"DROP TRIGGER IF EXISTS audit_entries_no_{name}"))
            else:
                for name in ("change", "delete"):
                    drop = f"DROP TRIGGER IF EXISTS audit_entries_no_{name} ON audit_entries"
                    connection.execute(text(drop))
            for statement in statements:
                connection.execute(text(statement))

    return run


BENT = {
    "edited": (["UPDATE audit_entries SET person = 'p7' WHERE number = 5"], 5, "not what was"),
    "back-dated": (
        ["UPDATE audit_entries SET at = '2020-01-01 00:00:00.000000' WHERE number = 5"],
        5,
        "not what was",
    ),
    "deleted": (["DELETE FROM audit_entries WHERE number = 5"], 5, "missing"),
    "deleted and closed up": (
        [
            "DELETE FROM audit_entries WHERE number = 5",
            "UPDATE audit_entries SET number = 5 WHERE number = 6",
        ],
        5,
        "does not follow",
    ),
    "reordered": (
        [
            "UPDATE audit_entries SET number = 99 WHERE number = 5",
            "UPDATE audit_entries SET number = 5 WHERE number = 6",
            "UPDATE audit_entries SET number = 6 WHERE number = 99",
        ],
        5,
        "does not follow",
    ),
    "cut off": (["DELETE FROM audit_entries WHERE number > 6"], 7, "missing at the end"),
}


def test_the_first_entry_that_was_bent_is_found_however_it_was_bent(api, bend):
    with api.services.database.read() as session:
        rows = [dict(row._mapping) for row in session.execute(select(AuditEntry.__table__))]
    for how, (statements, number, words) in BENT.items():
        bend(*statements)
        actual = api.services.audit.verify()
        assert actual.broken_at == number, how
        assert words in actual.problem
        bend("DELETE FROM audit_entries")
        with api.services.database.connection() as connection:
            connection.execute(insert(AuditEntry.__table__), rows)
        assert api.services.audit.verify().problem is None


def test_an_inserted_entry_is_found(api, bend):
    end = api.services.audit.head().number
    columns = "at, actor, action, details, hash"
    bend(
        f"INSERT INTO audit_entries (number, {columns}) "
        f"SELECT {end + 1}, {columns} FROM audit_entries WHERE number = 5"
    )
    assert api.services.audit.verify().broken_at == end + 1


def test_a_cut_with_its_head_moved_is_found_by_the_anchor_alone(api, bend):
    anchor = api.services.audit.head()
    bend(
        "DELETE FROM audit_entries WHERE number > 6",
        "UPDATE audit_head SET number = 6, "
        "hash = (SELECT hash FROM audit_entries WHERE number = 6)",
    )
    assert api.services.audit.verify().problem is None
    actual = api.services.audit.verify(anchor)
    assert actual.broken_at == 7
    assert "cut off" in actual.problem


def test_a_log_that_was_computed_anew_is_found_by_the_anchor_alone(api, bend):
    anchor = api.services.audit.head()
    bend("UPDATE audit_entries SET person = 'p7' WHERE number = 5")
    database = api.services.database
    with database.connection() as connection:
        table, before = AuditEntry.__table__, bytes(32)
        for row in connection.execute(table.select().order_by(table.c.number)).all():
            before = entry_hash(dict(row._mapping), before)
            connection.execute(
                table.update().where(table.c.number == row.number).values(hash=before)
            )
        connection.execute(AuditHead.__table__.update().values(hash=before))
    assert api.services.audit.verify().problem is None
    actual = api.services.audit.verify(anchor)
    assert actual.broken_at == anchor.number
    assert "rewritten" in actual.problem


def test_an_older_anchor_still_fits_a_log_that_grew(api, bend):
    anchor = api.services.audit.head()
    api.person("Later")
    assert api.services.audit.verify(anchor).problem is None


def test_a_changed_or_missing_certificate_of_erasure_is_found(api, bend):
    for person in ("p1", "p2"):
        api.ok("DELETE", f"{PERSONS}/{person}")
    assert api.services.audit.verify().certificates == 2
    bend("DELETE FROM erasures WHERE person = 'p1'")
    assert "missing" in api.services.audit.verify().problem
    bend("DELETE FROM erasures")
    assert api.services.audit.verify().problem is not None


def test_the_database_itself_refuses_to_change_the_log(api):
    api.key("admin")
    for statement in ("UPDATE audit_entries SET actor = 'x'", "DELETE FROM audit_entries"):
        with pytest.raises(MusterError), api.services.database.write() as session:
            session.execute(text(statement))
    assert api.services.audit.verify().problem is None


def test_the_command_says_where_it_breaks_and_exits_1(tmp_path):
    data = str(tmp_path)

    def run(*arguments, code=0):
        result = CliRunner().invoke(main, [*arguments, "--data-dir", data])
        assert result.exit_code == code, result.output
        return result.output

    for _ in range(3):
        run("key", "create", "--role", "admin")
    anchor = run("audit", "anchor").strip()
    assert "command key create" in run("audit", "list")
    assert "whole: 3 entries" in run("audit", "verify", "--anchor", anchor)
    (tmp_path / "anchor").write_text(anchor)
    with sqlite3.connect(tmp_path / "muster.db") as connection:
        connection.execute("DROP TRIGGER audit_entries_no_delete")
        connection.execute("DELETE FROM audit_entries WHERE number = 2")
    connection.close()
    assert "entries 2 to 2 are missing" in run("audit", "verify", code=1)
    actual = json.loads(run("audit", "verify", "--json", "--anchor", data + "/anchor", code=1))
    assert actual["broken_at"] == 2
    assert "NUMBER:HASH" in run("audit", "verify", "--anchor", "7", code=1)


@pytest.mark.parametrize(
    "value", ["", "5", "5:", "x:" + "0" * 64, "5:" + "g" * 64, "-1:" + "0" * 64]
)
def test_an_anchor_that_is_none_is_refused(value):
    with pytest.raises(MalformedInput):
        anchor_of(value)


def test_an_anchor_reads_as_it_prints():
    anchor = Anchor(number=7, hash="0a" * 32)
    assert anchor_of(f" {anchor}\n") == anchor
