"""`match-server evaluate`: from a folder of pictures to a report, and to a calibration."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from match_server.commands.options import json_flag, print_result, with_settings
from match_server.commands.progress import progress
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from match_server.container import Services
    from match_server.evaluation.report import Report
    from match_server.schemas.calibrations import CalibrationAdopted
    from match_server.schemas.collections import GateName
    from match_server.settings import Settings

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """The options of the command: what to evaluate, and where to write the files."""

    folder: Path
    collection: str
    out: Path
    false_alarms: float  # a day
    traffic: float  # tracks of strangers a day
    gate: "GateName | None" = None  # None: that of the collection
    pack: str | None = None  # whose models are measured; None: those of the collection
    reference: Path | None = None  # the reference calibration to write
    pictures: str | None = None  # the kind of pictures in it
    groups: Path | None = None  # CSV: the group of each person


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The report, the files that were written, and the adopted calibration."""

    report: "Report"
    written: "Sequence[Path]"
    adopted: "CalibrationAdopted | None"


@click.command(short_help="Measure the face models on pictures, and calibrate.")
@click.argument("folder", type=_FOLDER)
@click.option("--collection", default="default", show_default=True, help="Whose model and gate.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("evaluation"),
    show_default=True,
    help="Folder to write calibration, report and plots to.",
)
@click.option(
    "--gate",
    type=click.Choice(["doorway", "passport", "off"]),
    help="Required quality of the pictures.  [default: the collection's]",
)
@click.option(
    "--false-alarms",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="False alarms accepted in a day, for the table of thresholds.",
)
@click.option(
    "--traffic",
    type=click.FloatRange(min=0, min_open=True),
    default=1000.0,
    show_default=True,
    help="Strangers (tracks) before the cameras in a day, for the same table.",
)
@click.option("--pack", help="An installed model pack to measure.  [default: the collection's]")
@click.option(
    "--reference",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a reference calibration for the model pack to this file; needs --pictures.",
)
@click.option("--pictures", help='Which kind of pictures these are, e.g. "passport photographs".')
@click.option("--adopt", is_flag=True, help="Let the collection use the calibration.")
@click.option(
    "--groups",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV with the columns person (a folder's name) and group: errors are listed by group.",
)
@click.option(
    "--plots/--no-plots",
    default=None,
    help="Draw the curves as PNG too.  [default: where matplotlib is installed]",
)
@with_settings
@json_flag
def evaluate(
    settings: "Settings", adopt: bool, plots: bool | None, as_json: bool, **options: Any
) -> None:
    """Measure the collection's model on pictures, a folder a person, and calibrate it.

    Compares every picture with every other: error rates, thresholds for a false match rate or for
    false alarms a day, lookalikes, and refused pictures with the reasons. Nothing is enrolled. The
    calibration holds no names and no templates; the report (report.html, for a browser) names files
    and lists the errors by enrolled pictures, fused shots, quality, face size and groups. Works
    while the server runs, which uses an adopted calibration at once.

    \b
    Examples:
      match-server evaluate people/ --out evaluation/
      match-server evaluate people/ --collection staff --adopt
      match-server evaluate people/ --pack mine --pictures "our entrance" --reference mine.json
    """
    from match_server.evaluation.text_report import text_report

    request = EvaluationRequest(**options)
    if (request.reference is None) != (request.pictures is None):
        raise click.UsageError("--reference and --pictures go together")
    if request.pack is not None and adopt:
        raise click.UsageError("--adopt takes the collection's own model: leave out --pack")
    with _open_services(settings, adopt=adopt) as services:
        result = run(services, request, adopt=adopt, plots=plots)
    written = [str(path) for path in result.written]
    lines = [text_report(result.report), "", f"Written: {', '.join(written)}"]
    point = None
    if result.adopted is not None:
        point = result.adopted.operating_point
        lines += ["", f"Adopted by collection {request.collection!r}. {point.explanation}"]
    value = {
        "report": result.report.model_dump(mode="json"),
        "written": written,
        "operating_point": point and point.model_dump(mode="json"),
    }
    print_result(as_json, value, "\n".join(lines))


def run(
    services: "Services", request: EvaluationRequest, *, adopt: bool, plots: bool | None
) -> EvaluationResult:
    """Reads, compares, measures and writes; adopts the calibration with `adopt`.

    With `plots` of None, plots are drawn if matplotlib is installed. Raises PackError when the
    collection's model is not installed, Unusable when there are too few pictures.
    """
    from match_server.calibration.comparisons import compare
    from match_server.evaluation.enrolled_pictures import fnir_by_enrolled_pictures
    from match_server.evaluation.folder import read_folder
    from match_server.evaluation.html_report import html_report
    from match_server.evaluation.measurement import as_reference, measure
    from match_server.evaluation.plots import can_plot, write_plots
    from match_server.evaluation.report import FalseAlarmTarget, report_of
    from match_server.evaluation.slices import read_groups
    from match_server.picture_folder import pictures_in
    from match_server.services.faces.engines import installed_engine
    from models.packs.choice import DetectorChoice

    settings = services.settings
    collection = services.collections.get(request.collection)
    models = services.engines.of_model(collection.model_id)
    if request.pack is not None:
        detector = DetectorChoice(settings.model_detector)
        models = installed_engine(request.pack, settings.picture_limits, detector)
    gate = request.gate or collection.policy.gate
    groups = {} if request.groups is None else read_groups(request.groups)
    with progress("Reading") as display:
        read = read_folder(
            request.folder,
            list(pictures_in(request.folder)),
            models,
            gate,
            max_bytes=settings.max_body_bytes,
            progress=display.update,
        )
    compared = compare(read.rows, read.persons)
    measured = measure(
        compared,
        model_id=models.model_id,
        gate=gate,
        refused=len(read.refused),
        now=services.clock.now(),
    )
    target = FalseAlarmTarget(request.false_alarms, request.traffic)
    report = report_of(read, compared, measured, target, collection.templates, groups)
    written = [
        _write(request.out / "calibration.json", measured.file.model_dump_json()),
        _write(request.out / "report.json", report.model_dump_json(indent=1)),
        _write(request.out / "report.html", html_report(report, measured.file)),
    ]
    if request.reference is not None and request.pictures is not None:
        reference = as_reference(measured.file, request.pictures, fnir_by_enrolled_pictures(read))
        written.append(_write(request.reference, reference.model_dump_json()))
    if plots is not False and (plots or can_plot()):
        written += write_plots(measured.file, request.out)
    adopted = services.calibrations.adopt(collection.name, measured.file) if adopt else None
    return EvaluationResult(report, written, adopted)


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    return path


@contextmanager
def _open_services(settings: "Settings", *, adopt: bool) -> "Iterator[Services]":
    """Opens an existing server's services; without a server, temporary ones that leave no file."""
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
