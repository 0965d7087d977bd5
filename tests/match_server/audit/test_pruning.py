"""Old entries of the audit log are deleted, and the rest can still be verified."""

import json
from datetime import timedelta

import pytest
from click.testing import CliRunner
from sqlalchemy import func, select, text

from match_server.commands.cli import main
from match_server.db.tables import AuditEntry
from match_server.services.audit.chain import Actor, act_as
from shared.errors import Conflict, MusterError

PERSONS = "/v1/collections/default/persons"
DAYS = 30


@pytest.fixture(autouse=True)
def nobody():
    act_as(Actor())


@pytest.fixture
def api(make_api, clock):
    """Five persons long ago, of whom one was erased; five of today, of whom one was erased."""
    api = make_api(retain_audit_days=DAYS)
    for age in ("old", "new"):
        for number in range(5):
            api.person(f"P{number}", id=f"{age}{number}")
        api.ok("DELETE", f"{PERSONS}/{age}0")
        if age == "old":
            clock.advance(timedelta(days=DAYS + 1).total_seconds())
    return api


def _held(api):
    with api.services.database.read() as session:
        columns = func.min(AuditEntry.number), func.max(AuditEntry.number), func.count()
        return tuple(session.execute(select(*columns)).one())


def test_old_entries_go_and_the_rest_verifies_from_where_it_begins(api):
    audit = api.services.audit
    _, end, _ = _held(api)
    anchor_before = audit.head()
    gone = api.services.audit_retention.run()
    first, last, count = _held(api)
    assert (gone, first) == (first - 1, gone + 1)
    assert last == end + 1  # what was done is an entry itself
    assert gone > 6
    result = audit.verify(anchor_before)
    assert (result.problem, result.start.number, result.entries) == (None, gone, count)
    assert result.certificates == 2  # also that of which no entry speaks any more
    assert api.ok("GET", "/v1/audit?action=audit_pruned")["items"][0]["details"]["number"] == gone
    assert api.services.audit_retention.run() == 0  # nothing more is old
    assert audit.verify(result.start).problem is None
    api.person("Later")
    assert audit.verify().problem is None


def test_an_anchor_of_a_deleted_entry_is_said_to_be_too_old(api):
    too_old = api.services.audit.head().model_copy(update={"number": 3})
    api.services.audit_retention.run()
    with pytest.raises(Conflict, match="deleted by retention"):
        api.services.audit.verify(too_old)


def test_again_and_again(api, clock):
    for round_ in range(3):
        clock.advance(timedelta(days=DAYS + 1).total_seconds())
        api.ok("DELETE", f"{PERSONS}/new{round_ + 1}")
        assert api.services.audit_retention.run() > 0
        result = api.services.audit.verify()
        assert (result.problem, result.certificates) == (None, 3 + round_)


def test_by_default_nothing_is_deleted(make_api, clock):
    api = make_api()
    api.person("Ann")
    clock.advance(timedelta(days=10_000).total_seconds())
    assert api.services.audit_retention.run() == 0
    assert _held(api)[0] == 1


def _without_triggers(api, *statements):
    """Runs SQL as an attacker with access to the database."""
    database = api.services.database
    with database.connection() as connection:
        for name in ("update", "delete", "change"):
            if database.is_sqlite:
                drop = f"DROP TRIGGER IF EXISTS audit_entries_no_{name}"
            else:
                drop = f"DROP TRIGGER IF EXISTS audit_entries_no_{name} ON audit_entries"
            connection.execute(text(drop))
        for statement in statements:
            connection.execute(text(statement))


_CUT = (
    "UPDATE audit_start SET number = 15, hash = (SELECT hash FROM audit_entries WHERE number = 15)",
    "DELETE FROM audit_entries WHERE number <= 15",
)


def test_a_beginning_that_somebody_else_cut_off_is_found(api):
    _without_triggers(api, *_CUT)
    result = api.services.audit.verify()
    assert "no entry says" in result.problem
    assert result.broken_at == 16


def test_one_that_was_cut_further_than_retention_did_is_found(api):
    gone = api.services.audit_retention.run()
    assert gone < 15
    _without_triggers(api, *_CUT)
    assert "no entry says" in api.services.audit.verify().problem


def test_a_certificate_from_before_the_beginning_cannot_be_changed_unseen(api):
    api.services.audit_retention.run()
    _without_triggers(api, "DELETE FROM erasures WHERE person = 'old0'")
    assert "certificates of erasure from before" in api.services.audit.verify().problem


def test_the_database_refuses_to_delete_what_is_left(api):
    gone = api.services.audit_retention.run()
    with pytest.raises(MusterError), api.services.database.write() as session:
        session.execute(text(f"DELETE FROM audit_entries WHERE number = {gone + 1}"))
    assert api.services.audit.verify().problem is None


def test_a_process_that_dies_after_the_start_has_moved_is_finished_by_the_next(api, monkeypatch):
    retention = api.services.audit_retention
    with monkeypatch.context() as dying:
        dying.setattr(type(retention), "_delete_some", lambda _: 0)
        retention.run()
    assert _held(api)[0] == 1
    assert api.services.audit.verify().problem is None
    assert retention.run() == _held(api)[0] - 1 > 0


@pytest.mark.backends("sqlite")
def test_the_command_says_from_where(api):
    gone = api.services.audit_retention.run()
    command = ["audit", "verify", "--data-dir", str(api.services.settings.data_dir)]
    text_ = CliRunner().invoke(main, command).output
    assert f"whole from entry {gone + 1} on" in text_
    assert (
        json.loads(CliRunner().invoke(main, [*command, "--json"]).output)["start"]["number"] == gone
    )
