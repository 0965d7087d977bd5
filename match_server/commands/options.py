"""What the commands share: options, the question before a loss, and output as text or JSON."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_PROCESSES = ("serve", "ingest")  # they act for their clients, not for the person who starts them

Command = TypeVar("Command", bound=Callable[..., Any])


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --config and --data-dir, and gives the command the settings as its first argument.

    Other options of the command that are named as a setting override that setting. Entries that
    the command writes to the audit log name it as the actor.
    """

    @functools.wraps(command)
    def run(**options: Any) -> Any:
        # Imported here, so that help texts need no library of the server.
        from match_server.services.audit.chain import Actor, act_as
        from match_server.settings import Settings, load_settings

        context = click.get_current_context()
        own = Settings.model_fields.keys() & options.keys()
        settings = load_settings(context.obj, **{name: options.pop(name) for name in own})
        _, _, name = context.command_path.partition(" ")
        if name not in _PROCESSES:
            act_as(Actor(f"command {name}", call=f"command {name}"))
        try:
            return command(settings, **options)
        finally:
            act_as(Actor())

    config = click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        expose_value=False,
        callback=_take_config,
        help="TOML file with settings; may also stand before the command.",
    )
    folder = click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of database, photos and snapshots.  [default: muster-data]",
    )
    return folder(config(run))


def _take_config(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.obj = value


yes_flag = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def require_consent(what: str, *, yes: bool) -> None:
    """Asks before data is deleted for good. Raises ClickException where no terminal can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.ClickException(f"{what} If this is meant, say --yes.")
    click.confirm(f"{what} Go on?", abort=True, err=True)


def json_flag(command: Command) -> Command:
    """Adds `--json`, as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_result(as_json: bool, value: dict[str, Any], text: str) -> None:
    """Prints the result of a command."""
    click.echo(json.dumps(value) if as_json else text)
