"""Enrolling many."""

import sys
from pathlib import Path
from typing import Any

import click

from match_server.commands.options import data_dir, json_flag
from match_server.settings import load_settings


@click.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--collection", default="default", show_default=True, help="Where to enroll.")
@click.option("--store", is_flag=True, help="Keep the photos.")
@click.option("--storage", help="Keep the photos in this storage.")
@click.option("--force", is_flag=True, help="Enroll in spite of bad quality or of a lookalike.")
@click.option("--again", is_flag=True, help="Take a file of templates from its first line again.")
@data_dir
@json_flag
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
