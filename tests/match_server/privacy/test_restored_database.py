"""A backup from before an erasure does not bring the person back."""

import json
import shutil

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from match_server.backup.exporting import export
from match_server.backup.importing import restore
from match_server.commands.cli import main
from match_server.data_folder import make_data_folder
from match_server.db.tables import Counter, Person
from match_server.schemas.feed import ChangesQuery
from match_server.services.audit.chain import Actor, act_as
from match_server.services.auth.keys import Principal
from match_server.services.change_feed import next_number
from match_server.services.privacy.erasure_journal import FILE
from match_server.settings import Settings
from shared.errors import SnapshotNeeded

PERSONS = "/v1/collections/default/persons"
ADMIN = Principal("k", "admin")


@pytest.fixture(autouse=True)
def nobody():
    act_as(Actor())


@pytest.fixture
def backup(api, helpers, tmp_path, clock):
    """An export with Ann, Bob and Eve in it; afterwards Ann was erased, and Eve, who came back."""
    for number, name in enumerate(("Ann", "Bob", "Eve")):
        api.person(name, helpers.unit_vector(number), id=name.lower())
    file = tmp_path / "old.export"
    export(api.services.settings, clock, file)
    clock.advance(60)
    for person in ("ann", "eve"):
        api.ok("DELETE", f"{PERSONS}/{person}")
    clock.advance(60)
    api.person("Eve", helpers.unit_vector(2), id="eve")
    return file


def _names(services):
    with services.database.read() as session:
        return sorted(session.scalars(select(Person.name)))


@pytest.fixture
def restored(request, backup, tmp_path, empty_database, make_services):
    """Another server's services over the restored database; `prepare` may fill its data folder."""
    kind = "sqlite" if request.node.callspec.params.get("backend") == "sqlite" else "postgresql"
    folder = tmp_path / "new"
    url = None if kind == "sqlite" else empty_database(kind)
    settings = Settings(data_dir=folder, database_url=url)
    make_data_folder(folder)

    def make():
        restore(settings, backup)
        return make_services(data_dir=folder, database_url=url)

    return folder, make


def test_who_was_erased_since_is_erased_again_where_the_journal_is(api, restored):
    folder, make = restored
    journal = api.services.settings.data_dir / FILE
    assert journal.stat().st_mode & 0o077 == 0
    assert "Ann" not in journal.read_text()
    shutil.copy(journal, folder / FILE)
    services = make()
    assert _names(services) == ["Bob"]
    assert services.audit.verify().problem is None
    assert services.erasures.settle() == 0
    assert services.erasures.repeat() == 0  # once is enough
    assert services.journal.returned() == []


@pytest.mark.backends("sqlite")
def test_times_between_two_milliseconds_let_nobody_come_back(
    api, helpers, tmp_path, clock, make_services
):
    clock.advance(0.123456)
    api.ok("POST", "/v1/collections", json={"name": "staff"})
    api.ok("POST", "/v1/collections/staff/persons", json={"name": "Ann", "id": "ann"})
    export(api.services.settings, clock, tmp_path / "file")
    clock.advance(0.00271)
    api.ok("DELETE", "/v1/collections/staff/persons/ann")
    there = Settings(data_dir=tmp_path / "there")
    make_data_folder(there.data_dir)
    shutil.copy(api.services.settings.data_dir / FILE, there.data_dir / FILE)
    restore(there, tmp_path / "file")
    assert _names(make_services(**dict(there))) == []


def test_who_was_enrolled_anew_after_the_erasure_stays(api, backup):
    assert api.services.journal.returned() == []
    api.services.journal._file.unlink()  # and when all of it is noted again, too
    api.services.journal.keep_up()
    assert api.services.erasures.repeat() == 0
    assert _names(api.services) == ["Bob", "Eve"]


def test_an_erasure_of_another_server_on_the_same_database_is_noted_here_too(
    api, make_services, tmp_path, backup
):
    folder = tmp_path / "second server"
    make_data_folder(folder)
    url = api.services.settings.sqlalchemy_url
    second = make_services(data_dir=folder, database_url=url)
    second.journal.keep_up()
    lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    assert [one["person"] for one in lines] == ["ann", "eve"]
    second.journal.keep_up()
    assert len((folder / FILE).read_text().splitlines()) == 2


def test_a_line_that_was_cut_off_costs_only_itself(api, helpers, backup):
    journal = api.services.settings.data_dir / FILE
    with journal.open("ab") as stream:
        stream.write(b'{"erasure": "cut o')
    api.ok("DELETE", f"{PERSONS}/bob")
    assert [
        json.loads(line)["person"] for line in journal.read_text().splitlines() if "bob" in line
    ]
    api.services.journal.keep_up()
    assert api.services.journal.returned() == []


def test_followers_of_an_older_database_begin_anew(api, make_services, helpers, backup):
    """A device that is ahead of the restored feed would miss the next changes."""
    feed = api.services.feed
    query = ChangesQuery(collection="default", since=0)
    mark = feed.followed(query, ADMIN).mark
    api.services.journal.keep_up()
    with api.services.database.write() as session:  # as a restored copy of the file would be
        session.get_one(Counter, "changes").value -= 4
    fresh = make_services()
    with fresh.database.write() as session:
        next_number(session, "changes", 100)
    stale = query.model_copy(update={"since": 9, "scope": mark})
    with pytest.raises(SnapshotNeeded):
        fresh.feed.acknowledge(fresh.feed.followed(stale, ADMIN), stale)
    again = make_services()  # and no more than once
    assert again.feed.followed(query, ADMIN).mark == fresh.feed.followed(query, ADMIN).mark


@pytest.mark.backends("sqlite")
def test_the_command_erases_again_or_says_clearly_that_it_cannot(api, backup, tmp_path):
    def run(name, *more):
        command = ["import", str(backup), "--data-dir", str(tmp_path / name), *more]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        return result.output

    message = run("without")
    assert "are in it again" in message
    assert "--erasures" in message
    journal = str(api.services.settings.data_dir / FILE)
    assert "2 persons in it had been erased since" in run("with", "--erasures", journal)
    rows = json.loads(run("json", "--erasures", journal, "--json"))
    assert (rows["erased_again"], rows["erasures_known"]) == (2, True)
    refused = CliRunner().invoke(
        main, ["import", str(backup), "--data-dir", str(tmp_path / "x"), "--erasures", str(backup)]
    )
    assert refused.exit_code == 1
    assert "journal of erasures" in refused.output


def test_a_certificate_is_not_complete_before_the_erasure_is_noted(api, helpers):
    api.person("Ann", helpers.unit_vector(1), id="ann")
    journal = api.services.settings.data_dir / FILE
    journal.mkdir()  # cannot be written
    erased = api.ok("DELETE", f"{PERSONS}/ann")
    api.clock.advance(16)
    api.services.housekeeper.tick()
    assert api.ok("GET", f"/v1/erasures/{erased['erasure']}")["state"] == "pending"
    journal.rmdir()
    api.clock.advance(16)
    api.services.housekeeper.tick()
    assert api.ok("GET", f"/v1/erasures/{erased['erasure']}")["state"] == "complete"
    assert "ann" in journal.read_text()
