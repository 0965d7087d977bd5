"""A certificate of erasure waits for each process that holds galleries, searched or not."""

import json

import pytest
from click.testing import CliRunner

from match_server.commands.cli import main
from match_server.folder_id import FolderIds
from match_server.services.galleries import follower
from match_server.services.galleries.background import BackgroundFollower
from match_server.services.galleries.galleries import Galleries
from match_server.services.galleries.processes import ProcessReports, processes
from tests.support.waiting import wait_until

PERSONS = "/v1/collections/default/persons"


class Process:
    """A process of a server, which follows the feed in steps that a test takes."""

    def __init__(self, api, folder, clock):
        database = api.services.database
        self.galleries = Galleries(database, api.services.vault, folder=folder)
        self.reports = ProcessReports(database, FolderIds(folder), clock)
        self.machine = FolderIds(folder).own()
        self.follower = BackgroundFollower(database, self.galleries, self.reports)
        self.galleries.warm()

    def step(self):
        self.follower._follow()

    def end(self):
        self.galleries.close()
        self.reports.end()


@pytest.fixture
def process(api, tmp_path, clock):
    started = []

    def start(machine):
        started.append(Process(api, tmp_path / machine, clock))
        return started[-1]

    yield start
    for each in started:
        each.galleries.close()


def waiting(api, erasure):
    api.services.erasures.settle()
    view = api.ok("GET", f"/v1/erasures/{erasure}")
    return view["state"], [(one["who"], one["name"]) for one in view["waiting"]]


def test_it_waits_for_a_server_that_nobody_searches_and_for_its_files(
    api, helpers, process, clock, monkeypatch
):
    monkeypatch.setattr(follower, "_COMPACT_AFTER_S", 3600)
    api.person("Ann", helpers.unit_vector(1), id="p1")
    other = process("other")
    other.step()
    erasure = api.ok("DELETE", f"{PERSONS}/p1")["erasure"]
    assert waiting(api, erasure) == ("pending", [("server", other.machine)])
    clock.advance(6)
    other.step()  # its memory has forgotten her, its files have not
    assert waiting(api, erasure) == ("pending", [("server", other.machine)])
    (one,) = other.galleries._followers.values()
    one._gallery.compact()
    clock.advance(6)
    other.step()
    assert waiting(api, erasure) == ("complete", [])


def test_each_process_of_a_machine_has_to_follow(api, helpers, process, clock):
    api.person("Ann", helpers.unit_vector(1), id="p1")
    first, second = process("one"), process("one")
    first.step()
    second.step()
    erasure = api.ok("DELETE", f"{PERSONS}/p1")["erasure"]
    clock.advance(6)
    (one,) = first.galleries._followers.values()
    first.step()
    one._gallery.compact()
    first.step()
    assert waiting(api, erasure) == ("pending", [("server", second.machine)])
    second.step()
    assert waiting(api, erasure) == ("complete", [])


def test_the_files_of_a_machine_that_is_off_are_waited_for_until_it_starts_or_is_forgotten(
    api, helpers, process, clock
):
    api.person("Ann", helpers.unit_vector(1), id="p1")
    gone, off = process("gone"), process("off")
    for each in (gone, off):
        each.step()
        each.end()
    erasure = api.ok("DELETE", f"{PERSONS}/p1")["erasure"]
    assert waiting(api, erasure) == (
        "pending",
        [("server", name) for name in sorted([gone.machine, off.machine])],
    )
    clock.advance(120)
    again = process("off")
    (one,) = again.galleries._followers.values()
    one._gallery.compact()
    again.step()
    assert waiting(api, erasure) == ("pending", [("server", gone.machine)])

    settings = api.services.settings
    environment = {"MUSTER_DATABASE_URL": settings.database_url} if settings.database_url else {}

    def run(*arguments, code=0):
        command = ["servers", *arguments, "--data-dir", str(settings.data_dir)]
        result = CliRunner().invoke(main, command, env=environment)
        assert result.exit_code == code, result.output
        return result.output

    listed = json.loads(run("--json"))["processes"]
    assert {row["machine"] for row in listed} == {gone.machine, off.machine}
    assert "'nowhere'" in run("--forget", "nowhere", code=1)
    run("--forget", gone.machine)
    assert waiting(api, erasure) == ("complete", [])


def test_a_process_that_was_killed_is_replaced_by_the_next_of_its_machine(
    api, helpers, process, clock
):
    api.person("Ann", helpers.unit_vector(1), id="p1")
    killed = process("one")
    killed.step()
    clock.advance(91)
    process("one").step()
    erasure = api.ok("DELETE", f"{PERSONS}/p1")["erasure"]
    state, names = waiting(api, erasure)
    assert (state, len(names)) == ("pending", 1)


def test_a_thread_reports_by_itself_and_says_when_it_ends(api, helpers, process):
    api.person("Ann", helpers.unit_vector(1), id="p1")
    other = process("one")
    other.follower.start("worker")

    def reports():
        with api.services.database.read() as session:
            return [(row.kind, row.running) for row in processes(session)]

    wait_until(lambda: reports() == [("worker", True)], "a report")
    other.follower.stop()
    assert reports() == [("worker", False)]
