"""Configurations from the server: what may be set from afar, and what became of each.

A configuration is a part of the settings, laid over the box's own file. It is taken in four steps:
it must be one (unknown keys are refused), it must be tried apart (`trial.py`), it runs on trial,
and it is kept when every camera has given pictures. Which step a box is at rests on its disk, so
that one that takes the agent down, or hangs it, is undone by the start after the next.
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

_OWN: Final = ("device", "site", "state_dir", "server", "broker", "fleet")
_OWN_PARTS: Final = {"gallery": ("key_file", "hook")}
_STARTS: Final = 2  # of the agent with a configuration on trial; the next one undoes it
_NONE: Final = DesiredConfig(revision=0, config={})


class Kept(BaseModel):
    """What the box remembers of configurations, on its disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    taken: DesiredConfig = _NONE  # runs, or would after a rollback
    trial: DesiredConfig | None = None
    starts: int = 0  # with the one on trial
    last: DesiredConfig = _NONE  # the newest that was decided on
    state: Literal["applied", "refused", "rolled_back", "trying"] = "applied"
    message: str | None = None


class Configurations:
    """The box's own file, what the server wants of it, and what of that is in effect.

    Raises ConfigurationError where the box's own file is at fault.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        own = settings_from(read_table(path), str(path))
        self._state_file = own.state_dir / "configuration.json"
        self._kept = self._read()
        self._device = own.device

    @property
    def kept(self) -> Kept:
        return self._kept

    @property
    def on_trial(self) -> bool:
        return self._kept.trial is not None

    @property
    def running(self) -> DesiredConfig:
        return self._kept.trial or self._kept.taken

    def begin(self) -> AgentSettings:
        """The settings to start with. One on trial that was started twice in vain is undone."""
        kept = self._kept
        if kept.trial is not None and kept.starts >= _STARTS:
            self.undo(f"the agent was started {kept.starts} times with it and did not become well")
        elif kept.trial is not None:
            self._keep(kept.model_copy(update={"starts": kept.starts + 1}))
        try:
            return self.settings_with(self.running)
        except ConfigurationError as error:
            if self.running == _NONE:
                raise
            # The box's own file was changed since, and the two do not fit together any more.
            self._keep(
                Kept(
                    last=self.running,
                    state="rolled_back",
                    message=f"it does not fit the box's own file any more: {error.message}",
                )
            )
            return self.settings_with(_NONE)

    def settings_with(self, desired: DesiredConfig) -> AgentSettings:
        """The box's own file with `desired` laid over it. Raises ConfigurationError."""
        return settings_from(self.table_with(desired), self._origin(desired))

    def table_with(self, desired: DesiredConfig) -> dict[str, Any]:
        """The same, before it is validated. Raises ConfigurationError for what is not settable."""
        table = read_table(self._path)
        _require_settable(desired.config, table)
        return laid_over(table, desired.config)

    def is_news(self, desired: DesiredConfig) -> bool:
        """Whether nothing has been decided about this configuration yet."""
        return desired not in (self._kept.trial, self._kept.last, self._kept.taken)

    def refuse(self, desired: DesiredConfig, why: str) -> None:
        self._keep(
            self._kept.model_copy(update={"last": desired, "state": "refused", "message": why})
        )

    def try_out(self, desired: DesiredConfig) -> None:
        """From the next start on `desired` is on trial.

        Raises ConfigurationError when that cannot be written down: nothing could undo it then.
        """
        wanted = self._kept.model_copy(
            update={"trial": desired, "starts": 0, "last": desired, "state": "trying"}
        ).model_copy(update={"message": None})
        self._keep(wanted, required=True)

    def keep(self) -> None:
        """What is on trial has proved itself."""
        kept = self._kept
        if kept.trial is not None:
            self._keep(Kept(taken=kept.trial, last=kept.trial, state="applied"))

    def undo(self, why: str) -> None:
        """Back to what was taken before; `why` is told to the server."""
        kept = self._kept
        if kept.trial is not None:
            self._keep(
                Kept(taken=kept.taken, last=kept.trial, state="rolled_back", message=why[:2000])
            )

    def stopped(self) -> None:
        """The agent was told to stop during a trial: that start does not count against it."""
        if self._kept.trial is not None:
            starts = max(0, self._kept.starts - 1)
            self._keep(self._kept.model_copy(update={"starts": starts}))

    def report(self, settings: AgentSettings) -> ReportedConfig:
        """What the server is told."""
        kept = self._kept
        return ReportedConfig(
            device=self._device,
            revision=self.running.revision,
            state=kept.state,
            tried=kept.last.revision,
            message=kept.message,
            config=shown(settings),
            at=self._clock.now(),
        )

    def _origin(self, desired: DesiredConfig) -> str:
        if desired == _NONE:
            return str(self._path)
        return f"revision {desired.revision} of the server's configuration over {self._path}"

    def _read(self) -> Kept:
        try:
            return Kept.model_validate_json(self._state_file.read_bytes())
        except (OSError, ValidationError):  # none yet, or damaged: the box's own file is there
            return Kept()

    def _keep(self, kept: Kept, *, required: bool = False) -> None:
        try:
            self._state_file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self._state_file, kept.model_dump_json().encode(), mode=0o600)
        except OSError as error:
            if required:
                raise ConfigurationError(
                    f"it could not be written down in {self._state_file}: {error.strerror}"
                ) from error
        self._kept = kept


def laid_over(table: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`table` with the parts of `config`: sections key by key, everything else as a whole."""
    merged = dict(table)
    for name, value in config.items():
        before = merged.get(name)
        both = isinstance(before, dict) and isinstance(value, dict)
        merged[name] = laid_over(before, value) if both else value  # type: ignore[arg-type]
    return merged


def shown(settings: AgentSettings) -> dict[str, Any]:
    """The settings in effect without anything that opens a door: no addresses, no passwords."""
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
    """Raises ConfigurationError for settings that only the box's own file may hold.

    Who the box is and whom it obeys; programs that it runs; files that it would read secrets from.
    """
    for name in _OWN:
        if name in config:
            raise ConfigurationError(f"{name!r} is set in the box's own file only")
    for section, names in _OWN_PARTS.items():
        part = config.get(section)
        for name in names:
            if isinstance(part, dict) and name in part:
                raise ConfigurationError(f"'{section}.{name}' is set in the box's own file only")
    known = [one for one in own.get("cameras", []) if isinstance(one, dict)]
    for camera in config.get("cameras") or []:
        if not isinstance(camera, dict):
            continue  # validation says it better
        source, secret = str(camera.get("source", "")), camera.get("password_file")
        same = any(
            one.get("source") == source and one.get("password_file") == secret for one in known
        )
        if (" ! " in source or secret is not None) and not same:
            raise ConfigurationError(
                "a camera that is a GStreamer pipeline, or that has a password_file, is set in "
                "the box's own file only; there is none like this"
            )
