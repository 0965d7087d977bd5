"""The commands: messages, output for scripts, and exit status."""

import errno
import json
import os
import socket
import sqlite3
import sys
import tomllib

import pytest
from click.testing import CliRunner

from match_server.commands.cli import main
from match_server.data_folder import page_secret
from match_server.db.migrations import head_revision
from match_server.settings import Settings, load_settings
from shared.errors import ConfigurationError

COMMANDS = [
    "serve",
    "ingest",
    "migrate",
    "key create",
    "key list",
    "key revoke",
    "doctor",
    "audit list",
    "audit anchor",
    "audit verify",
    "retention",
    "settings",
    "device code",
    "device list",
    "erase",
    "evaluate",
    "export",
    "import",
    "keyring new",
    "keyring list",
    "keyring rotate",
    "reembed",
]


def _run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command):
    text = _run(*command.split(), "--help")
    assert f"match-server {command}" in text
    assert "Example" in text


def test_a_key_is_made_listed_and_revoked(tmp_path):
    data = tmp_path / "new" / "data"
    made = json.loads(_run("key", "create", "--role", "admin", "--json", "--data-dir", data))
    assert made["key"].startswith("muster_")
    assert made["role"] == "admin"
    listed = json.loads(_run("key", "list", "--json", "--data-dir", data))["keys"]
    assert [one["id"] for one in listed] == [made["id"]]
    assert made["key"] not in _run("key", "list", "--data-dir", data)
    _run("key", "revoke", made["id"], "--data-dir", data)
    assert "revoked" in _run("key", "list", "--data-dir", data)
    assert "no key" in _run("key", "revoke", "nothing", "--data-dir", data, code=1)


def test_the_data_folder_is_private(tmp_path):
    data = tmp_path / "data"
    _run("key", "create", "--role", "admin", "--data-dir", data)
    assert data.stat().st_mode & 0o077 == 0
    assert (data / "page-secret").stat().st_mode & 0o077 == 0


def test_a_role_that_does_not_exist_is_refused(tmp_path):
    assert "viewer" in _run("key", "create", "--role", "root", "--data-dir", tmp_path, code=2)
    text = _run("key", "create", "--role", "device", "--data-dir", tmp_path, code=2)
    assert "speaks for one device" in text


def test_migrate_says_where_the_database_is(tmp_path):
    up = json.loads(_run("migrate", "--json", "--data-dir", tmp_path))
    down = json.loads(_run("migrate", "--to", "base", "--yes", "--json", "--data-dir", tmp_path))
    assert (up["revision"], down["revision"]) == (head_revision(), "base")
    assert "9999" in _run("migrate", "--to", "9999", "--data-dir", tmp_path, code=1)


def test_going_back_asks_first_and_is_refused_where_nobody_can_answer(tmp_path):
    _run("key", "create", "--role", "admin", "--data-dir", tmp_path)
    text = _run("migrate", "--to", "base", "--data-dir", tmp_path, code=1)
    assert "deletes everything" in text
    assert "--yes" in text
    assert "valid" in _run("key", "list", "--data-dir", tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        ("key", "list"),
        ("key", "create", "--role", "viewer"),
        ("key", "revoke", "0a1b"),
        ("device", "code", "--device", "door"),
        ("device", "list"),
        ("device", "gallery", "--device", "door"),
        ("erase", "01a2", "--yes"),
        ("audit", "list"),
        ("retention",),
        ("keyring", "list"),
        ("export", "file"),
        ("evaluate", ".", "--adopt"),
        ("reembed", "staff"),
    ],
    ids=" ".join,
)
def test_a_command_about_a_server_makes_none_where_there_is_none(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = _run(*command, code=1)
    assert f"there is no server's data in {tmp_path / 'muster-data'}" in text
    assert "--data-dir" in text
    assert "no server's data" in _run(*command, "--data-dir", "typo", code=1)
    assert list(tmp_path.iterdir()) == []


def test_measuring_needs_no_server_and_leaves_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people").mkdir()
    text = _run("evaluate", "people", code=1)  # there is nobody in it
    assert "Measuring with the default settings, as there is no server's data" in text
    assert [path.name for path in tmp_path.iterdir()] == ["people"]


def test_the_first_key_of_an_admin_may_come_before_the_server_and_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = _run("key", "create", "--role", "admin")
    assert f"match-server serve --data-dir {tmp_path / 'muster-data'}" in text
    assert "first of a new server" not in _run("key", "create", "--role", "admin")


def test_no_command_makes_a_second_server_beside_the_service(tmp_path, monkeypatch):
    unit = tmp_path / "match-server.service"
    unit.touch()
    monkeypatch.setattr("match_server.data_folder._UNIT", unit)
    text = _run("key", "create", "--role", "admin", "--data-dir", tmp_path / "typo", code=1)
    assert "sudo match-server" in text
    assert not (tmp_path / "typo").exists()


def test_the_settings_file_is_taken_before_and_after_the_command(tmp_path):
    file = tmp_path / "muster.toml"
    file.write_text(f"data_dir = {str(tmp_path / 'here')!r}\n")
    _run("--config", file, "key", "create", "--role", "admin")
    assert "valid" in _run("key", "list", "--config", file)


def test_commands_in_messages_find_the_same_data(tmp_path, monkeypatch):
    file = tmp_path / "my settings.toml"
    file.write_text("port = 1\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings(file, data_dir="data").command("key list") == (
        f"match-server key list --config '{file}' --data-dir {tmp_path}/data"
    )
    monkeypatch.setenv("MUSTER_COMMAND_PREFIX", "sudo")  # as installed: the command knows its data
    assert load_settings(file).command("key list") == "sudo match-server key list"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_root_does_not_touch_the_data_of_the_servers_user(tmp_path):
    data = tmp_path / "data"
    _run("key", "create", "--role", "admin", "--data-dir", data)
    for path in (data, *data.iterdir()):
        os.chown(path, 65534, 65534)
    for command in (["key", "list"], ["serve", "--port", "0"]):
        assert "of the user nobody, and this is root" in _run(*command, "--data-dir", data, code=1)
    checks = json.loads(_run("doctor", "--json", "--data-dir", data, code=1))["checks"]
    assert {one["name"] for one in checks} == {"data folder", "models"}, "no false alarms"
    assert {path.stat().st_uid for path in data.iterdir()} == {65534}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE alembic_version SET version_num = '0004'", "at migration 0004, needs"),
        ("DROP TABLE webhooks", "lacks webhooks: it is half of one version"),
        ("INSERT INTO alembic_version VALUES ('0003')", "several versions of itself"),
    ],
)
def test_the_doctor_says_of_a_half_migrated_database_what_it_is(tmp_path, damage, message):
    _run("migrate", "--data-dir", tmp_path)
    with sqlite3.connect(tmp_path / "muster.db") as database:
        database.execute(damage)
    database.close()
    text = _run("doctor", "--data-dir", tmp_path, code=1)
    assert message in text
    assert text.count("BAD") <= 2, "what cannot be judged with such a database is left out"


def test_a_half_migrated_database_is_named_when_a_command_meets_it(tmp_path):
    _run("migrate", "--data-dir", tmp_path)
    with sqlite3.connect(tmp_path / "muster.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '0004'")
    database.close()
    assert "half of one version" in _run("key", "list", "--data-dir", tmp_path, code=1)


def test_a_database_in_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSTER_DATABASE_URL", "sqlite://")
    assert "sqlite:///FILE" in _run("serve", "--port", "0", "--data-dir", tmp_path, code=1)


def test_the_doctor_says_what_is_wrong_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSTER_MODELS_DIR", str(tmp_path / "nothing"))
    missing = json.loads(_run("doctor", "--json", "--data-dir", tmp_path / "no", code=1))
    assert missing["checks"][0]["ok"] is False
    data = tmp_path / "data"
    _run("migrate", "--data-dir", data)
    text = _run("doctor", "--data-dir", data, code=1)
    assert "match-server key create" in text
    assert "face-models pull compact" in text


def test_a_box_without_the_servers_libraries_is_told_what_to_install(tmp_path, monkeypatch):
    for module in ("serve", "gunicorn_application"):
        monkeypatch.delitem(sys.modules, f"match_server.process.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "gunicorn.app.base", None)  # so that its import fails
    text = _run("serve", "--data-dir", tmp_path, code=1)
    assert "pip install 'muster[server]'" in text


def test_settings_come_from_file_environment_and_command_in_this_order(tmp_path, monkeypatch):
    file = tmp_path / "muster.toml"
    file.write_text('port = 1001\nthreads = 7\nhost = "127.0.0.9"\n')
    monkeypatch.setenv("MUSTER_THREADS", "8")
    monkeypatch.setenv("MUSTER_PORT", "1002")
    settings = load_settings(file, port=1003, workers=None)
    assert (settings.host, settings.threads, settings.port) == ("127.0.0.9", 8, 1003)
    assert settings.workers == 1


@pytest.mark.parametrize(
    ("text", "named"), [("prot = 1", "prot"), ("port = 'x'", "port"), ("port = ", "TOML")]
)
def test_a_wrong_setting_is_named(tmp_path, text, named):
    file = tmp_path / "muster.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=named):
        load_settings(file)
    assert named in _run("--config", file, "doctor", code=1)


def test_secrets_have_no_default_and_are_not_shown(tmp_path):
    settings = Settings(broker_password="hush", database_url="postgresql://a:hush@db/x")
    assert "hush" not in repr(settings)
    assert Settings.model_fields["broker_password"].default is None
    assert all(field.description for field in Settings.model_fields.values())


def test_a_settings_file_that_is_missing_is_named(tmp_path):
    assert "nowhere.toml" in _run("--config", tmp_path / "nowhere.toml", "doctor", code=1)


def test_a_near_setting_is_proposed(tmp_path):
    file = tmp_path / "muster.toml"
    file.write_text("prot = 1\nnonsense = 2")
    text = _run("--config", file, "doctor", code=1)
    assert "is 'port' meant?" in text
    assert "no setting 'nonsense'; `match-server settings`" in text


def test_the_settings_that_are_shown_are_a_file_of_all_defaults(tmp_path):
    file = tmp_path / "muster.toml"
    shown = _run("settings")
    settings = json.loads(_run("settings", "--json"))["settings"]
    assert {one["name"] for one in settings} == {*Settings.model_fields}
    names = {one["name"] for one in settings if one["default"] is not None}
    lines = [line.removeprefix("# ") for line in shown.splitlines()]
    file.write_text("\n".join(line for line in lines if line.partition(" = ")[0] in names))
    assert {*tomllib.loads(file.read_text())} == names
    assert load_settings(file).model_dump() == Settings().model_dump()
    file.write_text(shown)
    assert load_settings(file).model_dump() == Settings().model_dump()


def test_a_database_of_a_newer_version_is_left_alone(tmp_path):
    _run("migrate", "--data-dir", tmp_path)
    with sqlite3.connect(tmp_path / "muster.db") as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9042'")
    for command in (["key", "list"], ["migrate"], ["doctor"]):
        text = _run(*command, "--data-dir", tmp_path, code=1)
        assert "'9042'" in text
        assert "a newer version has migrated it" in text


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "muster.db").write_text("This is a letter, not a database.")
    text = _run("key", "list", "--data-dir", tmp_path, code=1)
    assert f"{tmp_path / 'muster.db'} is not an SQLite database" in text


def test_a_database_that_does_not_answer_is_told_with_the_reason(tmp_path, monkeypatch):
    with socket.socket() as taken:  # nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("MUSTER_DATABASE_URL", f"postgresql://ann:hush@127.0.0.1:{port}/x")
        text = _run("key", "list", "--data-dir", tmp_path, code=1)
    assert "refused" in text
    assert str(port) in text
    assert "hush" not in text


def test_a_data_folder_that_is_a_file_is_named(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("MUSTER_DATA_DIR", str(file))
    assert f"{file} is no folder" in _run("key", "list", code=1)


def test_a_full_disk_at_the_first_start_is_a_sentence_and_leaves_no_half_a_secret(
    tmp_path, monkeypatch
):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="page-secret cannot be written: No space left"):
        page_secret(tmp_path)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b""]  # as a kill leaves it
    monkeypatch.undo()
    secret = page_secret(tmp_path)
    assert len(secret) == 32
    assert page_secret(tmp_path) == secret


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing_ends_a_command_with_a_sentence(tmp_path, monkeypatch, number):
    def failing(_settings):
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))

    monkeypatch.setattr("match_server.process.bootstrap.prepare", failing)
    text = _run("key", "create", "--role", "admin", "--data-dir", tmp_path, code=1)
    assert f"Error: {tmp_path / 'x'} cannot be written: {os.strerror(number)}" in text


def test_an_address_that_is_taken_is_told_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = _run("serve", "--port", port, "--data-dir", tmp_path, code=1)
    assert f"another program listens on port {port}" in text
    nowhere = _run("serve", "--port", 0, "--host", "192.0.2.1", "--data-dir", tmp_path, code=1)
    assert "nobody can listen on '192.0.2.1'" in nowhere
