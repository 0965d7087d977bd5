"""Processes and database: serve, ingest, migrate."""

from pathlib import Path
from typing import Any

import click

from match_server.commands.options import (
    answer,
    data_dir,
    json_flag,
    require_consent,
    yes_flag,
)
from match_server.settings import load_settings


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port; 0 takes a free one.  [default: 8480]")
@click.option("--workers", type=int, help="Worker processes.  [default: 1]")
@click.option("--threads", type=int, help="Threads of each worker.  [default: 16]")
@click.option("--open-page", is_flag=True, help="Show the web page on this machine without a key.")
@data_dir
@click.pass_obj
def serve(config: Path | None, /, open_page: bool, **options: Any) -> None:
    """Serve the HTTP API and the web page until stopped.

    Creates and migrates what is missing.

    \b
    Example:
      match-server serve --host 127.0.0.1 --port 8480 --data-dir /var/lib/muster
    """
    from match_server.process.serve import serve as run  # gunicorn is only needed here

    run(load_settings(config, open_page=open_page or None, **options))


@click.command()
@click.option("--broker", help="Where the broker is.  [default: mqtt://127.0.0.1:1883]")
@click.option("--client-id", "ingest_client_id", help="MQTT client id; one for each process.")
@data_dir
@click.pass_obj
def ingest(config: Path | None, /, **options: Any) -> None:
    """Take probes from an MQTT broker until stopped.

    Several may run at once, each with a client id of its own: they share the probes.

    \b
    Example:
      match-server ingest --broker mqtt://127.0.0.1:1883 --data-dir /var/lib/muster
    """
    from match_server.process.ingest import run_ingest

    run_ingest(load_settings(config, **options))


@click.command()
@click.option("--to", "revision", default="head", help="Migration to go to; `base` empties it.")
@yes_flag
@data_dir
@json_flag
@click.pass_obj
def migrate(
    config: Path | None, /, revision: str, yes: bool, as_json: bool, **options: Any
) -> None:
    """Bring the database to the shape that this version needs.

    `serve` does it by itself. Going back loses what the older shape cannot hold, so it asks first,
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

    settings = load_settings(config, **options)
    make_data_folder(settings.data_dir)
    database = Database(settings.sqlalchemy_url, append_notes)
    try:
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
    finally:
        database.close()
    answer(as_json, {"revision": reached}, f"The database is at migration {reached}.")
