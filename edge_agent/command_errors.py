"""How the commands of `edge-agent` end when something is wrong that a person can put right."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from shared.errors import MusterError


def says_errors(command: Callable[..., None]) -> Callable[..., None]:
    """What the tree of errors knows becomes one line and exit status 1, not a traceback."""

    @wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except MusterError as error:
            click.echo(f"edge-agent: {error.message}", err=True)
            sys.exit(1)

    return wrapped
