"""What the commands share: options, and answers as text or JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def data_dir(command: Command) -> Command:
    """`--data-dir`, as the setting of that name."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of database, photos and snapshots.  [default: muster-data]",
    )(command)


def json_flag(command: Command) -> Command:
    """`--json`, as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")(command)


def answer(as_json: bool, value: dict[str, Any], text: str) -> None:
    """Print the answer of a command."""
    click.echo(json.dumps(value) if as_json else text)
