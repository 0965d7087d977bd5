"""Settings: typed, documented, and refused with the name of the invalid key."""

import tomllib
from pathlib import Path

import pytest

from edge_agent.config import settings as module
from edge_agent.config.loading import load_settings, settings_of
from edge_agent.config.settings import AgentSettings
from shared.errors import ConfigurationError

MINIMAL = '[[cameras]]\nname = "door"\nsource = "0"\n'
EXAMPLE = Path(module.__file__).with_name("agent.example.toml")


def load(tmp_path: Path, text: str) -> AgentSettings:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load_settings(path)


def test_one_camera_is_enough(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL)
    assert settings.cameras[0].name == "door"
    assert settings.server is None
    assert settings.broker is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "sauce = 1\n", r"unknown key 'cameras\.0\.sauce'; did you mean 'source'"),
        ("sitte = 'x'\n" + MINIMAL, "unknown key 'sitte'; did you mean 'site'"),
        (MINIMAL + "[server]\nurl = 'http://x'\nkey = 'abc'\n", r"unknown key 'server\.key'"),
        (MINIMAL + "[broker]\nurl = 'mqtt://x'\npassword = 'abc'\n", r"'broker\.password'"),
        ("device = 'x'\n", "'cameras' is missing"),
        ("device = 'a/b'\n" + MINIMAL, "'device'"),
        (MINIMAL + "detect_every = 0\n", r"'cameras\.0\.detect_every'"),
        (MINIMAL + "width = 640\n", "width and height"),
        (MINIMAL + MINIMAL, "two cameras are called 'door'"),
        (MINIMAL + "[server]\nurl = 'muster.example:8480'\n", r"'server\.url': .* https://HOST"),
        (MINIMAL + "[server]\nurl = 'https://x'\nca_file = '/no.pem'\n", r"there is no /no\.pem"),
        ("cameras = [", "is not TOML"),
    ],
)
def test_the_error_names_the_fault(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(tmp_path, text)


def test_one_fault_of_a_camera_is_reported_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, MINIMAL + "sauce = 1\n")
    assert ";" not in caught.value.message.replace("; did you mean", "")


def test_a_secret_in_the_wrong_place_is_not_repeated_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, MINIMAL + "[server]\nurl = 'http://x'\nkey = 'hunter2'\n")
    assert "hunter2" not in caught.value.message


def test_the_error_names_a_missing_file() -> None:
    with pytest.raises(
        ConfigurationError, match=r"no configuration /nowhere/agent\.toml: .*enroll"
    ):
        load_settings(Path("/nowhere/agent.toml"))


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_SITE", "harbour")
    monkeypatch.setenv("MUSTER_SERVER__URL", "http://there")
    monkeypatch.setenv("MUSTER_MODELS_DIR", "/somewhere")  # a variable of another program
    settings = load(tmp_path, "site = 'home'\n" + MINIMAL + "[server]\nurl = 'http://here'\n")
    assert settings.site == "harbour"
    assert settings.server is not None
    assert settings.server.url == "http://there"


def test_the_error_names_an_invalid_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_BROKER", "mqtt://127.0.0.1")  # a section, not a value
    with pytest.raises(ConfigurationError, match=r"'broker' is a section.*MUSTER_BROKER__"):
        load(tmp_path, MINIMAL)


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_SITE", "harbour")
    camera = {"name": "door", "source": "0"}
    assert settings_of({"site": "home", "cameras": [camera]}).site == "home"


def test_secrets_come_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    key.write_text("abc\n")
    with_file = load(tmp_path, MINIMAL + f"[server]\nurl = 'http://x'\nkey_file = '{key}'\n")
    assert with_file.server is not None
    assert with_file.server.key() == "abc"
    without = load(tmp_path, MINIMAL + "[server]\nurl = 'http://x'\n")
    assert without.server is not None
    monkeypatch.delenv("MUSTER_SERVER_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=r"server\.key_file or MUSTER_SERVER_KEY"):
        without.server.key()
    monkeypatch.setenv("MUSTER_SERVER_KEY", "def")
    assert without.server.key() == "def"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "is empty"),
        ("two words", "a blank inside"),
        ("two\nlines", "2 lines"),
        ("a\tb", "a tab"),
    ],
)
def test_the_error_names_a_key_file_without_a_key(tmp_path: Path, content: str, why: str) -> None:
    key = tmp_path / "key"
    key.write_text(content)
    settings = load(tmp_path, MINIMAL + f"[server]\nurl = 'http://x'\nkey_file = '{key}'\n")
    assert settings.server is not None
    with pytest.raises(ConfigurationError, match=f"{why}.*one line with a secret"):
        settings.server.key()


def test_a_password_may_hold_blanks(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("correct horse\n")
    broker = f"[broker]\nurl = 'mqtt://x'\nusername = 'a'\npassword_file = '{file}'\n"
    settings = load(tmp_path, MINIMAL + broker)
    assert settings.broker is not None
    assert settings.broker.password() == "correct horse"


def test_the_state_folder_is_systemds_where_it_says_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    assert load(tmp_path, MINIMAL).state_dir == Path("/var/lib/one")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    settings = load(tmp_path, "device = 'box'\n" + MINIMAL)
    assert settings.outbox_path == Path("/home/me/state/muster/outbox-box.db")


def test_the_example_names_every_key_with_its_default(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    example = load(tmp_path, text)
    plain = load(tmp_path, MINIMAL)
    assert (example.models, example.shots, example.outbox) == (
        plain.models,
        plain.shots,
        plain.outbox,
    )
    # With the commented lines, it holds every key of every section.
    uncommented = "\n".join(
        line.removeprefix("# ")
        if line.startswith("# ") and (" = " in line or line.startswith("# ["))
        else line
        for line in text.splitlines()
    )
    table = tomllib.loads(uncommented)
    assert set(table) == set(AgentSettings.model_fields)
    for name, field in AgentSettings.model_fields.items():
        for section in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if hasattr(section, "model_fields"):
                keys = table[name][0] if name == "cameras" else table[name]
                assert set(keys) == set(section.model_fields), name


def test_the_error_for_an_invalid_name_says_what_is_valid(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, MINIMAL.replace('name = "door"', 'name = "front door"'))
    assert caught.value.message.endswith(
        "'cameras.0.name': a name is made of up to 63 letters without accents, digits, '_', '.' "
        "and '-', and begins with a letter or digit, such as 'front-door'"
    )
