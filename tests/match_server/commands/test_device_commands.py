"""`match-server device gallery`: the collections that a box may hold."""

import json

import pytest
from click.testing import CliRunner

from match_server.commands.cli import main


@pytest.fixture
def command(api, tmp_path, monkeypatch):
    """Runs the command on the database and the data folder of `api`."""
    monkeypatch.setenv("MUSTER_DATABASE_URL", api.services.settings.sqlalchemy_url)

    def run(*arguments, code=0):
        folder = str(api.services.settings.data_dir)
        words = ["device", "gallery", "--device", "door-1", *arguments, "--data-dir", folder]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == code, done.output
        return done.output

    return run


@pytest.fixture
def held(command):
    def now():
        listed = json.loads(command("--json"))["galleries"]
        return [(one["collection"], one["groups"], one["names"]) for one in listed]

    return now


def test_a_gallery_is_given_by_the_names_of_groups_and_withdrawn(api, command, held):
    group = api.ok("POST", "/v1/groups", json={"name": "Night shift", "collection": "default"})
    api.ok("POST", "/v1/collections", json={"name": "visitors"})
    assert "may hold nothing" in command()
    text = command("--give", "default", "--group", "Night shift", "--names")
    assert 'mode = "when_away"' in text
    assert "has not fetched it yet" in text
    command("--give", "visitors")
    assert held() == [("default", [group["id"]], True), ("visitors", [], False)]
    command("--give", "default", "--group", group["id"])
    assert held() == [("default", [group["id"]], False), ("visitors", [], False)]
    command("--withdraw", "default")
    assert held() == [("visitors", [], False)]


def test_what_is_not_there_is_named_and_changes_nothing(api, command, held):
    api.ok("POST", "/v1/groups", json={"name": "Night shift", "collection": "default"})
    command("--give", "default")
    assert "it has 'Night shift'" in command("--give", "default", "--group", "Nigt", code=1)
    assert "no collection 'nowhere'" in command("--give", "nowhere", code=1)
    assert "was not given 'visitors'" in command("--withdraw", "visitors", code=1)
    assert "go with --give" in command("--names", code=2)
    assert held() == [("default", [], False)]
