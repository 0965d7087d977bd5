"""What the commands share: options, consent, and answers as text or JSON."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

_SERVERS = ("serve", "ingest")  # what they do is done for others

Command = TypeVar("Command", bound=Callable[..., Any])


def data_dir(command: Command) -> Command:
    """`--data-dir`, as the setting of that name; the audit log is told that this command acts."""

    @functools.wraps(command)
    def acting(*arguments: Any, **options: Any) -> Any:
        from match_server.services.audit.chain import Actor, act_as  # a library of the server

        _, _, name = click.get_current_context().command_path.partition(" ")
        if name not in _SERVERS:
            act_as(Actor(f"command {name}", call=f"command {name}"))
        try:
            return command(*arguments, **options)
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
    return folder(config(cast(Command, acting)))


def _take_config(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.obj = value


yes_flag = click.option("--yes", is_flag=True, help="Do not ask whether this is meant.")


def require_consent(what: str, *, yes: bool) -> None:
    """Asks before something is lost for good. ClickException where nobody is there to answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.ClickException(f"{what} If this is meant, say --yes.")
    click.confirm(f"{what} Go on?", abort=True, err=True)


def json_flag(command: Command) -> Command:
    """`--json`, as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")(command)


def answer(as_json: bool, value: dict[str, Any], text: str) -> None:
    """Print the answer of a command."""
    click.echo(json.dumps(value) if as_json else text)
