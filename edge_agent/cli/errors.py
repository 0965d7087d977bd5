"""How the commands of `edge-agent` end when something is wrong that a person can put right."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from shared.errors import MusterError

_LIBRARIES = ("paho", "tomlkit")  # of the extra `edge`


def says_errors(command: Callable[..., None]) -> Callable[..., None]:
    """What the tree of errors knows becomes one line and exit status 1, not a traceback."""

    @wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except MusterError as error:
            click.echo(f"edge-agent: {error.message}", err=True)
            sys.exit(1)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _LIBRARIES:
                raise
            click.echo(
                f"edge-agent: the library {error.name!r} of the agent is not installed: "
                "pip install 'muster[edge]' (in a checkout: pip install '.[edge]')",
                err=True,
            )
            sys.exit(1)

    return wrapped
