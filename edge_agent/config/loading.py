"""Reads the settings from a TOML file; the environment (`MUSTER_…`) overrides it."""

import difflib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from edge_agent.config.settings import AgentSettings
from shared.errors import ConfigurationError
from shared.ids import NAME_PATTERN, name_fault

_PREFIX = "MUSTER_"


class _LoadedSettings(AgentSettings, BaseSettings):
    """The settings of a file, with the environment's overrides."""

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
    """The content of a TOML file. Raises ConfigurationError where it cannot be read."""
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
    """The settings of a table, with the environment's overrides. Errors name `origin`."""
    return _validated(lambda: _LoadedSettings(**table), origin)


def settings_of(table: dict[str, Any]) -> AgentSettings:
    """Settings from the command line, which the environment does not override."""
    return _validated(lambda: AgentSettings.model_validate(table), "the command line")


def _validated(make: Callable[[], AgentSettings], origin: str) -> AgentSettings:
    try:
        return make()
    except ValidationError as error:
        errors = [dict(details) for details in error.errors()]
        faults = "; ".join(_fault(fault) for fault in errors if not _follows(fault, errors))
        raise ConfigurationError(f"{origin}: {faults}") from error
    except SettingsError as error:
        raise ConfigurationError(f"the environment: {error}") from error


def _follows(error: dict[str, Any], others: list[dict[str, Any]]) -> bool:
    """Whether a list is too short only because its items are invalid."""
    location = error["loc"]
    return error["type"] == "too_short" and any(
        len(other["loc"]) > len(location) and other["loc"][: len(location)] == location
        for other in others
    )


def _fault(error: dict[str, Any]) -> str:
    """One fault in plain words, without the value, which may be a secret."""
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
