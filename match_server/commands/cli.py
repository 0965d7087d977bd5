"""The command `match-server`."""

import errno
from pathlib import Path
from typing import Any

import click

from match_server.commands.audit import audit
from match_server.commands.backup import export
from match_server.commands.devices import device
from match_server.commands.doctor import doctor
from match_server.commands.erase import erase, retention
from match_server.commands.evaluate import evaluate
from match_server.commands.importing import import_
from match_server.commands.keyring import keyring
from match_server.commands.keys import key
from match_server.commands.processes import ingest, migrate, serve
from match_server.commands.reembed import reembed
from match_server.commands.settings import settings
from shared.errors import MusterError

_SERVER_LIBRARIES = ("alembic", "flask", "gunicorn", "paho", "psycopg", "sqlalchemy", "werkzeug")

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class _Main(click.Group):
    """Errors of ours become one sentence and exit status 1."""

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


@click.group(cls=_Main)
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


for command in (
    serve,
    ingest,
    migrate,
    key,
    keyring,
    device,
    import_,
    export,
    evaluate,
    reembed,
    doctor,
    settings,
    audit,
    erase,
    retention,
):
    main.add_command(command)
