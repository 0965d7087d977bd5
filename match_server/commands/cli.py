"""The command `match-server`."""

import errno
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import click

from shared.errors import MusterError

# The function of each command, in a module of this package.
_COMMANDS = {
    "audit": "audit.audit",
    "device": "devices.device",
    "doctor": "doctor.doctor",
    "erase": "erase.erase",
    "evaluate": "evaluate.evaluate",
    "export": "backup.export",
    "import": "importing.import_",
    "ingest": "processes.ingest",
    "key": "keys.key",
    "keyring": "keyring.keyring",
    "migrate": "processes.migrate",
    "reembed": "reembed.reembed",
    "retention": "erase.retention",
    "serve": "processes.serve",
    "servers": "servers.servers",
    "settings": "settings.settings",
}

_SERVER_LIBRARIES = ("alembic", "flask", "gunicorn", "paho", "psycopg", "sqlalchemy", "werkzeug")

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class _LazyGroup(click.Group):
    """Imports the module of a command when it is called.

    Expected errors end a command with one sentence and exit status 1.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, function = _COMMANDS[cmd_name].partition(".")
        imported = import_module(f"match_server.commands.{module}")
        return cast(click.Command, getattr(imported, function))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MusterError as error:
            raise click.ClickException(error.message) from error
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            what = error.filename or "a file"
            raise click.ClickException(f"{what} cannot be written: {error.strerror}") from error
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _SERVER_LIBRARIES:
                raise
            raise click.ClickException(
                f"the library {error.name!r} of the server is not installed: "
                "pip install 'muster[server]' (in a checkout: pip install '.[server]')"
            ) from error


@click.group(cls=_LazyGroup)
@click.version_option(package_name="muster")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="MUSTER_CONFIG",
    help="TOML file with settings; MUSTER_… variables and options override it.",
)
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """The match server of Muster: enrollment, storage and the 1:N search."""
    context.obj = config
