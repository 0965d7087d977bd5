"""The command `match-server`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from match_server.settings import load_settings
from shared.errors import MusterError

Command = TypeVar("Command", bound=Callable[..., Any])

_SERVER_LIBRARIES = ("alembic", "flask", "gunicorn", "paho", "sqlalchemy", "werkzeug")
_ROLES = ("admin", "enroller", "searcher", "device", "viewer")


class _Main(click.Group):
    """Errors of ours become one sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MusterError as error:
            raise click.ClickException(error.message) from error
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


def _data_dir(command: Command) -> Command:
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of database, photos and snapshots.  [default: muster-data]",
    )(command)


def _json_flag(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")(command)


@main.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port; 0 takes a free one.  [default: 8480]")
@click.option("--workers", type=int, help="Worker processes.  [default: 1]")
@click.option("--threads", type=int, help="Threads of each worker.  [default: 16]")
@click.option("--open-page", is_flag=True, help="Show the web page on this machine without a key.")
@_data_dir
@click.pass_obj
def serve(config: Path | None, /, open_page: bool, **options: Any) -> None:
    """Serve the HTTP API and the web page until stopped.

    Creates and migrates what is missing.

    \b
    Example:
      match-server serve --host 127.0.0.1 --port 8480 --data-dir /var/lib/muster
    """
    from match_server.serve import serve as run  # gunicorn is only needed here

    run(load_settings(config, open_page=open_page or None, **options))


@main.command()
@click.option("--broker", help="Where the broker is.  [default: mqtt://127.0.0.1:1883]")
@click.option("--client-id", "ingest_client_id", help="MQTT client id; one for each process.")
@_data_dir
@click.pass_obj
def ingest(config: Path | None, /, **options: Any) -> None:
    """Take probes from an MQTT broker until stopped.

    Several may run at once, each with a client id of its own: they share the probes.

    \b
    Example:
      match-server ingest --broker mqtt://127.0.0.1:1883 --data-dir /var/lib/muster
    """
    from match_server.ingest import run_ingest

    run_ingest(load_settings(config, **options))


@main.command()
@click.option("--to", "revision", default="head", help="Migration to go to; `base` empties it.")
@_data_dir
@_json_flag
@click.pass_obj
def migrate(config: Path | None, /, revision: str, as_json: bool, **options: Any) -> None:
    """Bring the database to the shape that this version needs.

    `serve` does it by itself. Going back loses what the older shape cannot hold.

    \b
    Example:
      match-server migrate --data-dir /var/lib/muster
    """
    from match_server.database import Database
    from match_server.migrations import migrate as run

    settings = load_settings(config, **options)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.sqlalchemy_url)
    try:
        reached = run(database, revision)
    finally:
        database.close()
    _answer(as_json, {"revision": reached}, f"The database is at migration {reached}.")


@main.group()
def key() -> None:
    """Make, list and revoke API keys, also while the server runs."""


@key.command("create")
@click.option("--role", type=click.Choice(_ROLES), required=True, help="What the key may do.")
@click.option("--name", default="unnamed", help="Whose key it is, to find it again.")
@click.option("--device", help="Role device: the only device that the key may speak for.")
@_data_dir
@_json_flag
@click.pass_obj
def create_key(
    config: Path | None, /, role: str, name: str, device: str | None, as_json: bool, **options: Any
) -> None:
    """Make a key. It is shown this once.

    \b
    Example:
      match-server key create --role device --name "front door" --data-dir /var/lib/muster
    """
    from match_server.prepare import open_keys
    from match_server.schemas.keys import KeyCreate

    try:
        wanted = KeyCreate.model_validate({"role": role, "name": name, "device": device})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise click.UsageError(reason) from None
    with open_keys(load_settings(config, **options)) as keys:
        made = keys.create(wanted)
    text = f"{made.key}\n\nRole {made.role}, id {made.id}. Keep it: it is not shown again."
    _answer(as_json, made.model_dump(mode="json"), text)


@key.command("list")
@_data_dir
@_json_flag
@click.pass_obj
def list_keys(config: Path | None, /, as_json: bool, **options: Any) -> None:
    """List the keys, without the keys themselves.

    \b
    Example:
      match-server key list --data-dir /var/lib/muster
    """
    from match_server.prepare import open_keys
    from match_server.schemas.base import Paging

    with open_keys(load_settings(config, **options)) as keys:
        page = keys.page(Paging(size=1000))
    lines = [
        f"{one.id}  {one.role:9} {'revoked' if one.revoked_at else 'valid':8} {one.name}"
        for one in page.items
    ]
    found = [one.model_dump(mode="json") for one in page.items]
    _answer(as_json, {"keys": found}, "\n".join(lines) or "There is no key yet.")


@key.command("revoke")
@click.argument("key_id")
@_data_dir
@_json_flag
@click.pass_obj
def revoke_key(config: Path | None, /, key_id: str, as_json: bool, **options: Any) -> None:
    """Revoke the key of that id (see `key list`), from its next request on.

    \b
    Example:
      match-server key revoke 0a1b2c3d4e5f --data-dir /var/lib/muster
    """
    from match_server.prepare import open_keys

    with open_keys(load_settings(config, **options)) as keys:
        revoked = keys.revoke(key_id)
    _answer(as_json, revoked.model_dump(mode="json"), f"Key {revoked.id} is worth nothing now.")


@main.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--collection", default="default", show_default=True, help="Where to enroll.")
@click.option("--store", is_flag=True, help="Keep the photos.")
@click.option("--storage", help="Keep the photos in this storage.")
@click.option("--force", is_flag=True, help="Enroll in spite of bad quality or of a lookalike.")
@click.option("--again", is_flag=True, help="Take a file of templates from its first line again.")
@_data_dir
@_json_flag
@click.pass_obj
def import_(
    config: Path | None,
    /,
    source: Path,
    collection: str,
    store: bool,
    storage: str | None,
    force: bool,
    again: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Enroll a folder of pictures (a folder a person), or a file of templates.

    The file is NDJSON: a line {"name", "template", "model_id"} for each, or with "image" in place
    of the template. Run it again after an interruption: what was enrolled is recognised. The exit
    status is 0 only when nothing was refused. It works while the server runs.

    \b
    Examples:
      match-server import faces/ --collection staff --store
      match-server import templates.ndjson --json
    """
    from match_server.import_command import show
    from match_server.importing import opened, plan, run
    from match_server.schemas.batches import BatchQuery

    with opened(load_settings(config, **options)) as services:
        planned = plan(services, collection, source, again=again)
        wanted = BatchQuery(store=store, storage=storage, force=force)
        verdicts = run(services, collection, planned, wanted)
        counts = show(planned, verdicts, as_json=as_json)
    if counts["refused"]:
        sys.exit(1)


@main.command()
@_data_dir
@_json_flag
@click.pass_obj
def doctor(config: Path | None, /, as_json: bool, **options: Any) -> None:
    """Check data folder, database, keys and face models; exit status 0 when all is well.

    \b
    Example:
      match-server doctor --data-dir /var/lib/muster
    """
    from match_server.doctor import examine

    checks = examine(load_settings(config, **options))
    lines = [f"{'ok ' if one.ok else 'BAD'}  {one.name}: {one.message}" for one in checks]
    found = [one.model_dump(mode="json") for one in checks]
    _answer(as_json, {"checks": found}, "\n".join(lines))
    if not all(one.ok for one in checks):
        sys.exit(1)


def _answer(as_json: bool, value: dict[str, Any], text: str) -> None:
    click.echo(json.dumps(value) if as_json else text)
