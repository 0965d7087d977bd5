"""`match-server import`: pictures, templates, or a whole server."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from match_server.commands.backup import import_server, passphrase_file
from match_server.commands.options import json_flag, with_settings
from match_server.commands.progress import progress

if TYPE_CHECKING:
    from match_server.schemas.batches import Verdict
    from match_server.services.batches.imports import Plan
    from match_server.settings import Settings


@click.command("import", short_help="Enroll many pictures or templates, or a whole server.")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--collection", default="default", show_default=True, help="Collection to enroll in.")
@click.option("--name", help="All pictures are of this person.")
@click.option(
    "--by-file-name",
    is_flag=True,
    help="The pictures are named after their persons: 'Ann Lee.jpg', 'Ann Lee 2.jpg'.",
)
@click.option("--store", is_flag=True, help="Keep the photos.")
@click.option("--storage", help="Keep the photos in this storage.")
@click.option(
    "--force",
    is_flag=True,
    help="Enroll in spite of bad quality, a lookalike, a picture unlike the person's others, or a "
    "doubtful face.",
)
@click.option(
    "--face",
    type=click.Choice(["largest"]),
    help="Of several faces of like size in a picture, take the largest.",
)
@click.option("--again", is_flag=True, help="Take a file of templates from its first line again.")
@passphrase_file
@click.option(
    "--erasures",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The file erasures.journal of the server that was exported: persons who were erased there "
    "since are erased again.",
)
@click.option(
    "--allow-storage",
    "storages",
    multiple=True,
    metavar="URI",
    help="A storage (file:///folder, s3://bucket) that a file of a whole server may name and write "
    "to; without, it is refused where it names one.",
)
@with_settings
@json_flag
def import_(
    settings: "Settings",
    source: Path,
    collection: str,
    name: str | None,
    by_file_name: bool,
    store: bool,
    storage: str | None,
    force: bool,
    face: Literal["largest"] | None,
    again: bool,
    passphrase_file: Path | None,
    erasures: Path | None,
    storages: tuple[str, ...],
    as_json: bool,
) -> None:
    """Enroll a folder of pictures (a folder a person), a file of templates, or a whole server.

    The file is NDJSON: a line {"name", "template", "model_id"} for each, or with "image" in place
    of the template. With --name or --by-file-name pictures need no folder for each person. Run it
    again after an interruption: it passes over what was enrolled. The exit status is 0 only when
    nothing was refused. It works while the server runs.

    A file of `match-server export` is recognised by its first bytes: it fills an empty database and
    data folder with that server, completely or not at all.

    \b
    Examples:
      match-server import faces/ --collection staff --store
      match-server import badge-photos/ --by-file-name
      match-server import ann.jpg --name "Ann Lee"
      match-server import templates.ndjson --json
      match-server import muster.export --data-dir new --erasures old/erasures.journal
    """
    from match_server.backup.importing import is_export
    from match_server.picture_folder import Naming
    from match_server.process.open_services import open_services
    from match_server.schemas.batches import BatchQuery

    if is_export(source):
        _require_no_options(click.get_current_context())
        import_server(settings, source, passphrase_file, erasures, storages, as_json=as_json)
        return
    if erasures is not None:
        raise click.UsageError("--erasures is for files of a whole server")
    if storages:
        raise click.UsageError("--allow-storage is for files of a whole server")
    if passphrase_file is not None:
        raise click.UsageError("--passphrase-file is for files of a whole server")
    if name is not None and by_file_name:
        raise click.UsageError("give --name or --by-file-name, not both")
    naming = Naming(name, by_file_name)
    with open_services(settings, create=True) as services:
        plan = services.imports.plan(collection, source, again=again, naming=naming)
        query = BatchQuery(store=store, storage=storage, force=force, face=face)
        groups = services.imports.run(collection, plan, query)
        counts = _show(plan, groups, as_json=as_json)
    if counts["refused"]:
        sys.exit(1)


def _require_no_options(context: click.Context) -> None:
    """Raises UsageError for an option that cannot apply to a whole server."""
    options = ("name", "by_file_name", "store", "storage", "force", "face", "again")
    for name in ("collection", *options):
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = name.replace("_", "-")
            raise click.UsageError(
                f"--{option} is for pictures and templates, not for whole servers"
            )


def _show(plan: "Plan", groups: "Iterable[Sequence[Verdict]]", *, as_json: bool) -> Counter[str]:
    """Prints verdicts as they come. Returns the number of verdicts of each status.

    Verdicts go to standard output, a line each (those of accepted templates only with `as_json`),
    and the counts at the end; the progress goes to standard error.
    """
    counts: Counter[str] = Counter(accepted=0, duplicate=0, refused=0)
    with progress("Importing", plan.total, done=plan.done_before) as display:
        for verdicts in groups:
            counts.update(verdict.status for verdict in verdicts)
            if text := "".join(_line(verdict, as_json=as_json) for verdict in verdicts):
                display.print(text.removesuffix("\n"))
            reached = max(verdicts[-1].index + 1, plan.done_before)
            display.update(reached, note=f"{counts['refused']:,} refused")
    if as_json:
        click.echo(json.dumps({**counts, "done_before": plan.done_before}))
    else:
        before = f", {plan.done_before} done before" if plan.done_before else ""
        text = ", ".join(f"{number} {status}" for status, number in counts.items())
        click.echo(f"{text}{before}.")
    return counts


def _line(verdict: "Verdict", *, as_json: bool) -> str:
    if as_json:
        return verdict.line()
    what = verdict.file or f"line {verdict.index + 1}"
    if verdict.status == "refused":
        return f"refused    {what}: {verdict.message}\n"
    return f"{verdict.status:10} {what}\n" if verdict.file is not None else ""
