"""The long-running processes `serve` and `ingest`, and `migrate`."""

from contextlib import closing
from typing import TYPE_CHECKING

import click

from match_server.commands.options import (
    json_flag,
    print_result,
    require_consent,
    with_settings,
    yes_flag,
)

if TYPE_CHECKING:
    from match_server.settings import Settings


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port; 0 takes a free one.  [default: 8480]")
@click.option("--workers", type=int, help="Worker processes; default: by cores, at most 4.")
@click.option("--threads", type=int, help="Threads of each worker.  [default: 16]")
@click.option(
    "--open-page",
    is_flag=True,
    default=None,
    help="Show the web page on this machine without a key.",
)
@with_settings
def serve(settings: "Settings") -> None:
    """Serve the HTTP API and the web page until stopped.

    Creates and migrates what is missing.

    \b
    Example:
      match-server serve --host 127.0.0.1 --port 8480 --data-dir /var/lib/muster
    """
    from match_server.process.serve import serve as run

    run(settings)


@click.command()
@click.option("--broker", help="Address of the broker.  [default: mqtt://127.0.0.1:1883]")
@click.option("--client-id", "ingest_client_id", help="MQTT client id; another for each process.")
@with_settings
def ingest(settings: "Settings") -> None:
    """Take probes from an MQTT broker until stopped.

    Several may run at once, each with a client id of its own: they share the probes.

    \b
    Example:
      match-server ingest --broker mqtt://127.0.0.1:1883 --data-dir /var/lib/muster
    """
    from match_server.process.ingest import run_ingest

    run_ingest(settings)


@click.command()
@click.option("--to", "revision", default="head", help="Migration to go to; `base` empties it.")
@yes_flag
@with_settings
@json_flag
def migrate(settings: "Settings", revision: str, yes: bool, as_json: bool) -> None:
    """Bring the database to the schema that this version needs.

    `serve` does it by itself. Going back loses what the older schema cannot hold, so it asks first,
    unless --yes is given.

    \b
    Example:
      match-server migrate --data-dir /var/lib/muster
    """
    from match_server.data_folder import make_data_folder
    from match_server.db.database import Database, sqlite_path
    from match_server.db.migrations import current_revision, is_older, require_database
    from match_server.db.migrations import migrate as run
    from match_server.services.audit.chain import append_notes

    make_data_folder(settings.data_dir)
    with closing(Database(settings.sqlalchemy_url, append_notes)) as database:
        require_database(sqlite_path(database.url))
        current = current_revision(database)
        if is_older(revision, current):
            lost = "everything in" if revision == "base" else "what is newer than that from"
            require_consent(
                f"Going back to {revision} deletes {lost} the database "
                f"{database.url.render_as_string()}.",
                yes=yes,
            )
        reached = run(database, revision)
    print_result(as_json, {"revision": reached}, f"The database is at migration {reached}.")
