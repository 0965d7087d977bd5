"""What the commands share: options, and answers as text or JSON."""

import functools
import json
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
        from match_server.services.law.chain import Actor, act_as  # a library of the server

        _, _, name = click.get_current_context().command_path.partition(" ")
        if name not in _SERVERS:
            act_as(Actor(f"command {name}", call=f"command {name}"))
        try:
            return command(*arguments, **options)
        finally:
            act_as(Actor())

    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of database, photos and snapshots.  [default: muster-data]",
    )(cast(Command, acting))


def json_flag(command: Command) -> Command:
    """`--json`, as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")(command)


def answer(as_json: bool, value: dict[str, Any], text: str) -> None:
    """Print the answer of a command."""
    click.echo(json.dumps(value) if as_json else text)
