"""Settings of the agent: one TOML file, overridden by `MUSTER_…` in the environment, read once."""

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from edge_agent.config.camera import CameraSettings
from edge_agent.config.fleet import FleetSettings
from edge_agent.config.secrets import read_secret
from edge_agent.config.timeouts import Timeouts
from shared.errors import ConfigurationError
from shared.files import readable
from shared.ids import NAME_PATTERN, name_fault
from shared.wire.messages import Name

_DEFAULT_TIMEOUTS = Timeouts()
_PREFIX = "MUSTER_"
_KEY_VARIABLE = "MUSTER_SERVER_KEY"
_PASSWORD_VARIABLE = "MUSTER_BROKER_PASSWORD"  # noqa: S105  # the variable's name, not a password


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _http_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("a server's address is https://HOST[:PORT], or http://… on a safe network")
    return url


class ModelSettings(_Section):
    pack: str = "compact"
    detector: str | None = None
    closer: str | None = None
    threads: int = Field(default=1, ge=1, le=64)
    embedder_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


class ShotSettings(_Section):
    """Which shots become probes; see `edge_agent.vision.best_shot.ShotRules`."""

    gate: Literal["doorway", "passport", "off"] = "doorway"
    first_wait_s: float = Field(default=0.2, ge=0, le=10)
    margin: float = Field(default=0.1, ge=0, le=1)
    max_probes: int = Field(default=4, ge=1, le=100)
    fuse: int = Field(default=3, ge=1, le=16)
    keep_missed_s: float = Field(default=2.5, ge=0, le=30)
    thumbnails: bool = True


class LivenessSettings(_Section):
    """How the weak liveness score is used; see `edge_agent.vision.quality_gate.LivenessRules`."""

    policy: Literal["off", "report", "refuse"] = "report"
    threshold: float = Field(default=0.3, ge=0, le=1)


class OutboxSettings(_Section):
    max_mib: int = Field(default=256, ge=1, le=1_048_576)
    max_age_days: float = Field(default=30.0, gt=0, le=3650)


class GallerySettings(_Section):
    """The box's own gallery; see docs/edge-gallery.md. It follows the feed of [server]."""

    mode: Literal["off", "when_away", "always"] = "off"
    collections: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)] = ("default",)
    max_age_h: float = Field(default=72.0, gt=0, le=24 * 366)
    max_mib: int = Field(default=512, ge=1, le=1_048_576)
    key_file: Path | None = None
    hook: Annotated[tuple[str, ...], Field(max_length=32)] = ()


class ServerSettings(_Section):
    """The road over HTTP. The key comes from `key_file` or MUSTER_SERVER_KEY, never from here."""

    url: Annotated[str, AfterValidator(_http_address)]
    key_file: Path | None = None
    ca_file: Annotated[Path | None, AfterValidator(readable)] = None
    connect_timeout_s: float = Field(default=_DEFAULT_TIMEOUTS.connect_s, ge=0.1, le=120)
    answer_timeout_s: float = Field(default=_DEFAULT_TIMEOUTS.silence_s, ge=0.5, le=600)
    request_timeout_s: float = Field(default=_DEFAULT_TIMEOUTS.request_s, ge=1, le=3600)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.request_timeout_s < self.answer_timeout_s:
            raise ValueError(
                "request_timeout_s is for a whole request: it cannot be shorter than"
                f" answer_timeout_s ({self.answer_timeout_s:g})"
            )
        return self

    @property
    def timeouts(self) -> Timeouts:
        return Timeouts(self.connect_timeout_s, self.answer_timeout_s, self.request_timeout_s)

    def key(self) -> str:
        """The API key. Raises ConfigurationError where there is none."""
        secret = read_secret(self.key_file, _KEY_VARIABLE, blanks=False)
        if secret is None:
            raise ConfigurationError(
                f"the server needs a key: set server.key_file or {_KEY_VARIABLE}"
                " (`edge-agent enroll-device` fetches one)"
            )
        return secret


class BrokerSettings(_Section):
    """The road over MQTT. The password comes from `password_file` or MUSTER_BROKER_PASSWORD."""

    url: str
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    resend_s: float = Field(default=15.0, ge=1, le=600)

    def password(self) -> str | None:
        return read_secret(self.password_file, _PASSWORD_VARIABLE)


class AgentSettings(_Section):
    """All that one agent is told. Unknown keys are refused."""

    device: Name = Field(default_factory=lambda: default_device())
    site: Name = "main"
    state_dir: Path = Field(default_factory=lambda: default_state_dir())
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    cameras: Annotated[tuple[CameraSettings, ...], Field(min_length=1, max_length=64)]
    models: ModelSettings = ModelSettings()
    shots: ShotSettings = ShotSettings()
    liveness: LivenessSettings = LivenessSettings()
    outbox: OutboxSettings = OutboxSettings()
    gallery: GallerySettings = GallerySettings()
    fleet: FleetSettings = FleetSettings()
    server: ServerSettings | None = None
    broker: BrokerSettings | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        names = [camera.name for camera in self.cameras]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two cameras are called {twice[0]!r}; every camera has its own name")
        if self.gallery.mode != "off" and self.server is None:
            raise ValueError(
                "gallery.mode: a gallery follows the server over HTTP, also where probes go "
                "through a broker: give [server] too"
            )
        return self

    @property
    def outbox_path(self) -> Path:
        """One outbox a device: it owns the device's sequence numbers."""
        return self.state_dir / f"outbox-{self.device}.db"

    def gallery_path(self, collection: str) -> Path:
        """The box's encrypted copy of one collection."""
        return self.state_dir / f"gallery-{self.device}-{collection}.db"

    @property
    def ledger_path(self) -> Path:
        return self.state_dir / f"ledger-{self.device}.db"


class _LoadedSettings(AgentSettings, BaseSettings):
    """The same, with the environment laid over what it is given."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings  # the environment overrides the file


def load_settings(path: Path) -> AgentSettings:
    """The settings in the TOML file at `path`, with the environment's overrides.

    Raises ConfigurationError, which names every key that is unknown, missing or impossible.
    """
    return settings_from(read_table(path), str(path))


def read_table(path: Path) -> dict[str, Any]:
    """What stands in a TOML file. Raises ConfigurationError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"there is no configuration {path}: `edge-agent enroll-device` writes one,"
            " `edge-agent example` prints one with every key explained"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the configuration {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error


def settings_from(table: dict[str, Any], origin: str) -> AgentSettings:
    """The settings of a table, with the environment's overrides; faults are said of `origin`."""
    return _validated(lambda: _LoadedSettings(**table), origin)


def settings_of(table: dict[str, Any]) -> AgentSettings:
    """Settings from the command line, which the environment does not override."""
    return _validated(lambda: AgentSettings.model_validate(table), "the command line")


def _validated(make: Callable[[], AgentSettings], origin: str) -> AgentSettings:
    try:
        return make()
    except ValidationError as error:
        found = [dict(one) for one in error.errors()]
        faults = "; ".join(_fault(one) for one in found if not _follows(one, found))
        raise ConfigurationError(f"{origin}: {faults}") from error
    except SettingsError as error:
        raise ConfigurationError(f"the environment: {error}") from error


def default_device() -> str:
    """This machine's host name, as far as it may stand in a topic."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()).lstrip("_.-")[:63]
    return name or "box"


def default_state_dir() -> Path:
    """Where systemd says (`STATE_DIRECTORY`), else the user's own state folder."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "muster"


def _follows(error: dict[str, Any], others: list[dict[str, Any]]) -> bool:
    """Whether a list is too short only because what stands in it is at fault."""
    where = error["loc"]
    return error["type"] == "too_short" and any(
        len(one["loc"]) > len(where) and one["loc"][: len(where)] == where for one in others
    )


def _fault(error: dict[str, Any]) -> str:
    """One fault as a person would like to read it, without the value: it may be a secret."""
    location = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _keys_beside(error["loc"]), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown key {location!r}{hint}"
    if error["type"] == "model_type":
        variable = f"{_PREFIX}{location.upper()}__…"
        return f"{location!r} is a section with keys of its own (in the environment: {variable})"
    if error["type"] == "missing":
        return f"{location!r} is missing"
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == NAME_PATTERN:
        return f"{location!r}: {name_fault(str(error['input']))}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{location!r}: {message}" if location else message


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section in which the last part of `location` stands."""
    section: type[BaseModel] = AgentSettings
    for part in location[:-1]:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            kinds = (annotation, *get_args(annotation))
            section = next(
                kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)
            )
    return list(section.model_fields)
