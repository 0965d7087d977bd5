"""Error messages of the commands of `edge-agent`."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from shared.errors import MusterError

_LIBRARIES = ("paho", "tomlkit")  # of the extra `edge`


def says_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Prints a MusterError as one line and exits with status 1, without a traceback."""

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
