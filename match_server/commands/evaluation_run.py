"""`match-server evaluate`: from a folder to files, and to a collection."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from match_server.commands.progress import progress
from match_server.container import Services
from match_server.evaluation.by_pictures import missed_by_pictures
from match_server.evaluation.comparisons import compare
from match_server.evaluation.folder import read_folder
from match_server.evaluation.html_report import html_report
from match_server.evaluation.measurement import as_reference, measure
from match_server.evaluation.plots import can_plot, write_plots
from match_server.evaluation.report import Report, Wish, report_of
from match_server.evaluation.slices import read_groups
from match_server.picture_folder import pictures_in
from match_server.schemas.calibrations import CalibrationAdopted
from match_server.schemas.collections import GateName
from match_server.services.recognition.engines import installed_engine
from models.packs.choice import DetectorChoice
from shared.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Reference:
    """A pack's reference calibration that is to be written."""

    path: Path
    pictures: str  # of which kind they are


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be evaluated, and where the files go."""

    folder: Path
    collection: str
    out: Path
    gate: GateName | None  # None: the collection's
    wish: Wish
    pack: str | None = None  # whose models look at the pictures; None: the collection's
    reference: Reference | None = None
    groups: Path | None = None  # CSV: which group a person belongs to


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it."""

    report: Report
    written: Sequence[Path]
    adopted: CalibrationAdopted | None


def run(services: Services, wanted: Wanted, *, adopt: bool, plots: bool | None) -> Done:
    """Read, compare, measure, write; adopt where asked. `plots` of None: where they can be drawn.

    Raises PackError when the collection's model is not installed, Unusable when the pictures do
    not suffice.
    """
    collection = services.collections.get(wanted.collection)
    faces = services.engines.of_model(collection.model_id)
    if wanted.pack is not None:
        settings = services.settings
        detector = DetectorChoice(settings.model_detector)
        faces = installed_engine(wanted.pack, settings.picture_limits, detector)
    gate = wanted.gate or collection.policy.gate
    groups = {} if wanted.groups is None else read_groups(wanted.groups)
    with progress("Reading") as bar:
        read = read_folder(
            wanted.folder,
            list(pictures_in(wanted.folder)),
            faces,
            gate,
            max_bytes=services.settings.max_body_bytes,
            progress=bar.update,
        )
    compared = compare(read.rows, read.persons)
    measured = measure(
        compared,
        model_id=faces.model_id,
        gate=gate,
        refused=len(read.refused),
        now=services.clock.now(),
    )
    report = report_of(read, compared, measured, wanted.wish, collection.templates, groups)
    written = [
        _write(wanted.out / "calibration.json", measured.file.model_dump_json()),
        _write(wanted.out / "report.json", report.model_dump_json(indent=1)),
        _write(wanted.out / "report.html", html_report(report, measured.file)),
    ]
    if wanted.reference is not None:
        missed = missed_by_pictures(read)
        reference = as_reference(measured.file, wanted.reference.pictures, missed)
        written.append(_write(wanted.reference.path, reference.model_dump_json()))
    if plots is not False and (plots or can_plot()):
        written += write_plots(measured.file, wanted.out)
    adopted = services.calibrations.adopt(collection.name, measured.file) if adopt else None
    return Done(report, written, adopted)


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    return path
