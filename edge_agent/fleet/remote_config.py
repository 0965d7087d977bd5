"""Configurations from the server: which settings they may have, and the state of each.

A configuration is a part of the settings that is merged over the device's own file. There are four
steps: it is validated (unknown keys are refused), tried in a dry run (`config_dry_run`), used on
trial, and kept when every camera has given pictures. The step is stored on the disk, so that a
configuration that ends or hangs the agent is rolled back by the start after the next.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_agent.config.loading import read_table, settings_from
from edge_agent.config.settings import AgentSettings
from shared.addresses import redacted
from shared.clock import Clock
from shared.errors import ConfigurationError
from shared.files import write_durably
from shared.wire.device import DesiredConfig, ReportedConfig

_LOCAL: Final = ("device", "site", "state_dir", "server", "broker", "fleet")
_LOCAL_PARTS: Final = {"gallery": ("key_file", "hook")}
_STARTS: Final = 2  # of the agent with a configuration on trial; the next start rolls it back
_NONE: Final = DesiredConfig(revision=0, config={})


class StoredState(BaseModel):
    """The state of the configurations, stored on the disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    taken: DesiredConfig = _NONE  # the last one that was kept
    trial: DesiredConfig | None = None
    starts: int = 0  # with the configuration on trial
    last: DesiredConfig = _NONE  # the newest with a decision
    state: Literal["applied", "refused", "rolled_back", "trying"] = "applied"
    message: str | None = None


class Configurations:
    """The device's own file, merged with the configuration of the server that is in effect.

    Raises ConfigurationError where the device's own file is invalid.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        own = settings_from(read_table(path), str(path))
        self._state_file = own.state_dir / "configuration.json"
        self._stored = self._read()
        self._device = own.device

    @property
    def stored(self) -> StoredState:
        return self._stored

    @property
    def on_trial(self) -> bool:
        return self._stored.trial is not None

    @property
    def running(self) -> DesiredConfig:
        return self._stored.trial or self._stored.taken

    def begin(self) -> AgentSettings:
        """Returns the settings for a start; rolls back a trial after two starts without success."""
        stored = self._stored
        if stored.trial is not None and stored.starts >= _STARTS:
            self.undo(f"the agent was started {stored.starts} times with it without success")
        elif stored.trial is not None:
            self._keep(stored.model_copy(update={"starts": stored.starts + 1}))
        try:
            return self.settings_with(self.running)
        except ConfigurationError as error:
            if self.running == _NONE:
                raise
            # The device's own file was changed since, and the two no longer fit together.
            self._keep(
                StoredState(
                    last=self.running,
                    state="rolled_back",
                    message=f"it does not fit the box's own file any more: {error.message}",
                )
            )
            return self.settings_with(_NONE)

    def settings_with(self, desired: DesiredConfig) -> AgentSettings:
        """Merges `desired` over the device's own file. Raises ConfigurationError."""
        return settings_from(self.table_with(desired), self._origin(desired))

    def table_with(self, desired: DesiredConfig) -> dict[str, Any]:
        """The same, not validated. Raises ConfigurationError for settings that must be local."""
        table = read_table(self._path)
        _require_settable(desired.config, table)
        return merged(table, desired.config)

    def is_news(self, desired: DesiredConfig) -> bool:
        """Returns whether there is no decision on this configuration yet."""
        return desired not in (self._stored.trial, self._stored.last, self._stored.taken)

    def refuse(self, desired: DesiredConfig, why: str) -> None:
        self._keep(
            self._stored.model_copy(update={"last": desired, "state": "refused", "message": why})
        )

    def try_out(self, desired: DesiredConfig) -> None:
        """Puts `desired` on trial from the next start on.

        Raises ConfigurationError when the state cannot be stored: a rollback would be impossible.
        """
        state = self._stored.model_copy(
            update={"trial": desired, "starts": 0, "last": desired, "state": "trying"}
        ).model_copy(update={"message": None})
        self._keep(state, required=True)

    def keep(self) -> None:
        """Keeps the configuration on trial for good."""
        stored = self._stored
        if stored.trial is not None:
            self._keep(StoredState(taken=stored.trial, last=stored.trial, state="applied"))

    def undo(self, why: str) -> None:
        """Rolls back the configuration on trial; `why` is reported to the server."""
        stored = self._stored
        if stored.trial is not None:
            self._keep(
                StoredState(
                    taken=stored.taken, last=stored.trial, state="rolled_back", message=why[:2000]
                )
            )

    def stopped(self) -> None:
        """The agent was stopped during a trial: that start does not count."""
        if self._stored.trial is not None:
            starts = max(0, self._stored.starts - 1)
            self._keep(self._stored.model_copy(update={"starts": starts}))

    def report(self, settings: AgentSettings) -> ReportedConfig:
        """Returns the report for the server."""
        stored = self._stored
        return ReportedConfig(
            device=self._device,
            revision=self.running.revision,
            state=stored.state,
            tried=stored.last.revision,
            message=stored.message,
            config=shown(settings),
            at=self._clock.now(),
        )

    def _origin(self, desired: DesiredConfig) -> str:
        if desired == _NONE:
            return str(self._path)
        return f"revision {desired.revision} of the server's configuration over {self._path}"

    def _read(self) -> StoredState:
        try:
            return StoredState.model_validate_json(self._state_file.read_bytes())
        except (OSError, ValidationError):  # none yet, or damaged: the device's own file remains
            return StoredState()

    def _keep(self, stored: StoredState, *, required: bool = False) -> None:
        try:
            self._state_file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self._state_file, stored.model_dump_json().encode(), mode=0o600)
        except OSError as error:
            if required:
                raise ConfigurationError(
                    f"it could not be stored in {self._state_file}: {error.strerror}"
                ) from error
        self._stored = stored


def merged(table: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `table` with the values of `config`; sections are merged key by key."""
    result = dict(table)
    for name, value in config.items():
        before = result.get(name)
        both = isinstance(before, dict) and isinstance(value, dict)
        result[name] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def shown(settings: AgentSettings) -> dict[str, Any]:
    """Returns the settings in effect without secrets: no addresses, no passwords."""
    table: dict[str, Any] = json.loads(
        settings.model_dump_json(exclude={"server", "broker", "state_dir"})
    )
    table.get("gallery", {}).pop("hook", None)
    for camera in table["cameras"]:
        camera["source"] = redacted(camera["source"])
        camera.pop("password_file", None)
        camera.pop("username", None)
    return table


def _require_settable(config: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for settings that only the device's own file may have.

    These are its name, its server and broker, programs that it runs, and files with secrets.
    """
    for name in _LOCAL:
        if name in config:
            raise ConfigurationError(f"{name!r} is set in the box's own file only")
    for section, names in _LOCAL_PARTS.items():
        part = config.get(section)
        for name in names:
            if isinstance(part, dict) and name in part:
                raise ConfigurationError(f"'{section}.{name}' is set in the box's own file only")
    known = [entry for entry in own.get("cameras", []) if isinstance(entry, dict)]
    for camera in config.get("cameras") or []:
        if not isinstance(camera, dict):
            continue  # validation has a better message
        source, secret = str(camera.get("source", "")), camera.get("password_file")
        same = any(
            entry.get("source") == source and entry.get("password_file") == secret
            for entry in known
        )
        if (" ! " in source or secret is not None) and not same:
            raise ConfigurationError(
                "a camera that is a GStreamer pipeline, or that has a password_file, is set in "
                "the box's own file only; there is none like this"
            )
