"""What the model is worth on somebody's own pictures."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from match_server.commands.options import answer, data_dir, json_flag
from match_server.settings import Settings, load_settings

if TYPE_CHECKING:
    from match_server.container import Services

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(short_help="Measure the face models on pictures, and calibrate.")
@click.argument("folder", type=_FOLDER)
@click.option("--collection", default="default", show_default=True, help="Whose model and gate.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where calibration, report and plots go.  [default: evaluation, here]",
)
@click.option(
    "--gate",
    type=click.Choice(["doorway", "passport", "off"]),
    help="Quality asked of the pictures.  [default: the collection's]",
)
@click.option(
    "--false-alarms",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Wished for in a day, for the table of thresholds.",
)
@click.option(
    "--traffic",
    type=click.FloatRange(min=0, min_open=True),
    default=1000.0,
    show_default=True,
    help="Strangers (tracks) before the cameras in a day, for the same.",
)
@click.option("--pack", help="An installed model pack to measure.  [default: the collection's]")
@click.option(
    "--reference",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the model pack's reference calibration there; needs --pictures.",
)
@click.option("--pictures", help='Which kind of pictures these are, e.g. "passport photographs".')
@click.option("--adopt", is_flag=True, help="Let the collection decide by the calibration.")
@click.option(
    "--groups",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV with the columns person (a folder's name) and group: errors are told by group.",
)
@click.option(
    "--plots/--no-plots",
    default=None,
    help="Draw the curves as PNG too.  [default: where matplotlib is installed]",
)
@data_dir
@json_flag
@click.pass_obj
def evaluate(
    config: Path | None,
    /,
    folder: Path,
    collection: str,
    out: Path | None,
    gate: Any,
    false_alarms: float,
    traffic: float,
    pack: str | None,
    reference: Path | None,
    pictures: str | None,
    adopt: bool,
    groups: Path | None,
    plots: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the collection's model on pictures, a folder a person, and calibrate it.

    Compares every picture with every other: error rates, thresholds for a false match rate or for
    false alarms a day, lookalikes, and what was refused and why. Nothing is enrolled. The
    calibration holds no names and no templates; the report (report.html, for a browser) names files
    and tells the errors by enrolled pictures, fused shots, quality, face size and groups. Works
    while the server runs, which takes an adopted calibration at once.

    \b
    Examples:
      match-server evaluate people/ --out evaluation/
      match-server evaluate people/ --collection staff --adopt
      match-server evaluate people/ --pack mine --pictures "our entrance" --reference mine.json
    """
    from match_server.commands.evaluation_run import Reference, Wanted, run
    from match_server.evaluation.report import Wish
    from match_server.evaluation.text_report import told

    if (reference is None) != (pictures is None):
        raise click.UsageError("--reference and --pictures go together")
    if pack is not None and adopt:
        raise click.UsageError("--adopt takes the collection's own model: leave out --pack")
    with _services(load_settings(config, **options), adopt=adopt) as services:
        wanted = Wanted(
            folder,
            collection,
            out or Path("evaluation"),
            gate,
            Wish(false_alarms, traffic),
            pack,
            None if reference is None or pictures is None else Reference(reference, pictures),
            groups,
        )
        done = run(services, wanted, adopt=adopt, plots=plots)
    lines = [told(done.report), "", f"Written: {', '.join(str(path) for path in done.written)}"]
    if done.adopted is not None:
        point = done.adopted.operating_point
        lines += ["", f"Adopted by collection {collection!r}. {point.explanation}"]
    found = {
        "report": done.report.model_dump(mode="json"),
        "written": [str(path) for path in done.written],
        "operating_point": done.adopted and done.adopted.operating_point.model_dump(mode="json"),
    }
    answer(as_json, found, "\n".join(lines))


@contextmanager
def _services(settings: Settings, *, adopt: bool) -> "Iterator[Services]":
    """Those of a server that exists; to measure alone, without one, others that leave nothing."""
    from match_server.data_folder import NoData
    from match_server.process.bootstrap import require_data
    from match_server.process.open_services import open_services

    try:
        require_data(settings)
    except NoData as error:
        if adopt:
            raise
        click.echo(f"Measuring with the default settings, as {error.message}.", err=True)
        with tempfile.TemporaryDirectory(prefix="muster-") as folder:
            alone = settings.model_copy(update={"data_dir": Path(folder), "database_url": None})
            with open_services(alone, create=True) as services:
                yield services
        return
    with open_services(settings) as services:
        yield services
