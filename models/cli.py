"""The command `face-models`: lists, fetches and verifies model packs, and uses them."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Column, Table

from models.packs.install import pull, quiet
from models.packs.manifest import Figures, Manifest, Pack, built_in_manifest, read_manifest
from models.packs.registries import Report
from models.packs.store import default_cache, installed, installed_names, require
from shared.errors import MusterError

if TYPE_CHECKING:
    from models.types import Face, LocatedFace


class _Commands(click.Group):
    """Commands whose expected failures end in one sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MusterError as error:
            raise click.ClickException(error.message) from error


_manifest_option = click.option(
    "--manifest",
    "manifest_path",
    type=click.Path(path_type=Path),
    help="A manifest of your own, whose packs are added to the built-in ones.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


@click.group(cls=_Commands)
def main() -> None:
    """List, fetch and verify packs of face models, show their licences, and make templates.

    Example: face-models pull compact samples
    """


@main.command("list")
@_manifest_option
@_json_option
def list_packs(manifest_path: Path | None, as_json: bool) -> None:
    """List all packs and whether they are installed.

    Example: face-models list --json
    """
    manifest = _manifest(manifest_path)
    rows = [_facts(name, pack, manifest) for name, pack in manifest.packs.items()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(
        Column("pack", no_wrap=True),
        *("commercial use", "ms a face", "missed", "ms a picture", "MB", "installed"),
    )
    for row in rows:
        table.add_row(
            row["name"],
            "yes" if row["commercial_use"] else f"[bold red]{_refusal(row)}[/]",
            _figure(row["face_ms"]),
            _figure(row["missed_percent"], " %"),
            _figure(row["picture_ms"]),
            f"{row['bytes'] / 1e6:.1f}",
            "yes" if row["installed"] else "no",
        )
    console = Console()
    console.print(table)
    console.print(_LEGEND, highlight=False)
    for row in rows:
        what, licence = escape(row["description"]), escape(row["licence"])
        console.print(f"[bold]{row['name']}[/]: {what} {licence}.", highlight=False)


@main.command("pull")
@click.argument("packs", nargs=-1, required=True)
@click.option("--accept-licence", is_flag=True, help="My use is one that the licence allows.")
@click.option(
    "--from",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Take files that lie in this folder from there instead of the network.",
)
@_manifest_option
@_json_option
def pull_packs(
    packs: tuple[str, ...],
    accept_licence: bool,
    folder: Path | None,
    manifest_path: Path | None,
    as_json: bool,
) -> None:
    """Fetch, check and install PACKS; installed packs are not fetched again.

    Example: face-models pull compact centerface
    """
    manifest = _manifest(manifest_path)
    answers = []
    for name in packs:
        pack = manifest.pack(name)
        if not as_json:
            click.echo(_licence(name, pack))
        with _progress(show=not as_json) as report:
            there = pull(
                name,
                manifest,
                accept_licence=accept_licence or _consents(name, pack, ask=not as_json),
                folder=folder,
                report=report,
            )
        answers.append({"name": name, "folder": str(there.folder)})
        if not as_json:
            click.echo(f"{name} is installed in {there.folder}")
    if as_json:
        click.echo(json.dumps(answers, indent=2))


@main.command()
@click.argument("packs", nargs=-1)
@_json_option
def verify(packs: tuple[str, ...], as_json: bool) -> None:
    """Read the installed files of PACKS (default: all) and compare their checksums.

    Example: face-models verify compact
    """
    names = packs or tuple(installed_names())
    known = built_in_manifest().packs
    problems_by_pack = {}
    for name in names:
        there = require(name)
        problems_by_pack[name] = there.problems()
        if name in known and not there.pack.installs_as(known[name]):
            problems_by_pack[name].append("installed by another version of Muster: pull it again")
    if as_json:
        click.echo(
            json.dumps({"cache": str(default_cache()), "problems": problems_by_pack}, indent=2)
        )
    else:
        for name, problems in problems_by_pack.items():
            click.echo(f"{name}: {'; '.join(problems) if problems else 'as installed'}")
        if not problems_by_pack:
            click.echo(f"nothing is installed in {default_cache()}")
    if any(problems_by_pack.values()):
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("pack")
@_manifest_option
@_json_option
def info(pack: str, manifest_path: Path | None, as_json: bool) -> None:
    """Show all facts about PACK: licence, origin, files, inputs, outputs, checksums.

    Example: face-models info compact
    """
    manifest = _manifest(manifest_path)
    entry = manifest.pack(pack)
    figures = manifest.figures.get(pack, Figures())
    if as_json:
        facts = {"name": pack, "installed": _is_installed(pack, entry)}
        facts |= entry.model_dump(mode="json") | {"figures": figures.model_dump(mode="json")}
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(_licence(pack, entry))
    click.echo(f"\n{entry.title}\n{entry.description}\n")
    click.echo("".join(f"{line}\n" for line in _measured(figures)))
    for file in entry.files:
        click.echo(f"{file.name}  {file.role} {file.architecture or ''}")
        click.echo(f"  from    {entry.sources[file.source].url} {file.member or ''}")
        click.echo(f"  sha256  {file.sha256}")
        if file.input is not None:
            size = f"{file.input.width or 'any'} x {file.input.height or 'any'}"
            click.echo(
                f"  input   {size} {file.input.colour}, "
                f"(x - {file.input.mean}) / {file.input.divisor}"
            )
            click.echo(f"  output  {file.output}")
            if file.reference is not None:
                points = ", ".join(f"({x:g}, {y:g})" for x, y in file.reference)
                click.echo(f"  points  {points}")
            click.echo(f"  steps   {', '.join(file.steps) or 'none'}")


@main.command()
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--pack", default="compact", show_default=True, help="Makes the templates.")
@click.option("--detector", help="The pack whose detector finds the faces.")
@click.option("--largest", is_flag=True, help="Only the largest face of each picture.")
@click.option(
    "--npy",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the vectors into this file, float16, a row for each line that is printed.",
)
def embed(
    pictures: tuple[Path, ...], pack: str, detector: str | None, largest: bool, npy: Path | None
) -> None:
    """Print a line of JSON for each face of PICTURES: box, quality, model and unit vector.

    A picture that cannot be read gets a line with its error; then the exit status is 1.

    Example: face-models embed people/*.jpg --npy people.npy
    """
    from models.face_models import open_models
    from models.images.decoding import open_picture

    models = open_models(pack, detector=detector)
    vectors: list[NDArray[np.float16]] = []
    failed = False
    for path in pictures:
        try:
            picture = open_picture(path.read_bytes())
        except (MusterError, OSError) as error:
            failed = True
            why = error.message if isinstance(error, MusterError) else error.strerror
            click.echo(json.dumps({"file": str(path), "error": why}))
            continue
        faces = sorted(models.find(picture.image), key=_area, reverse=True)
        for face in models.analyze(picture.image, faces[:1] if largest else faces):
            vectors.append(_stored(face))
            facts = _face_facts(path, face, picture.reduction)
            if npy is None:
                facts["vector"] = vectors.pop().tolist()
            click.echo(json.dumps(facts))
    if npy is not None:
        rows = np.stack(vectors) if vectors else np.empty((0, models.dimension), np.float16)
        with npy.open("wb") as file:
            np.save(file, rows)
    if failed:
        raise click.exceptions.Exit(1)


def _area(face: "LocatedFace") -> float:
    x1, y1, x2, y2 = face.box.tolist()
    return float((x2 - x1) * (y2 - y1))


def _stored(face: "Face") -> NDArray[np.float16]:
    """The template as it is stored, float16."""
    if face.template is None:
        raise RuntimeError("the face was analyzed without a template")
    return face.template.vector.astype(np.float16)


def _face_facts(path: Path, face: "Face", reduction: int) -> dict[str, Any]:
    """The facts about a face, its box in pixels of the file."""
    return {
        "file": str(path),
        "box": [round(reduction * value, 1) for value in face.box.tolist()],
        "score": round(float(face.score), 3),
        "quality": face.quality.model_dump(mode="json"),
        "model_id": None if face.template is None else face.template.model_id,
    }


def _manifest(path: Path | None) -> Manifest:
    manifest = built_in_manifest()
    return manifest if path is None else manifest.joined(read_manifest(path))


_LEGEND = (
    "ms: processor time of a template, and of the detector for 1280 x 720, on one 2.3 GHz thread.\n"
    "missed: pictures of enrolled persons that are not recognised, where 2,860 are enrolled with "
    "one picture each and 1 stranger in 100 is given a name (FNIR at FPIR 1 %).\n"
    "A pack without a detector works with the detector of `compact` or `yunet`.\n"
)


def _figure(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:g}{unit}"


def _refusal(row: dict[str, Any]) -> str:
    return "NO" if row["disputed"] is None else "disputed"


def _measured(figures: Figures) -> list[str]:
    """Returns sentences about a pack's accuracy and costs."""
    lines = []
    if figures.face_ms is not None:
        lines.append(f"{figures.face_ms:g} ms of one thread a template (2.3 GHz)")
    if figures.picture_ms is not None:
        lines.append(f"{figures.picture_ms:g} ms of one thread to search 1280 x 720 for faces")
    if figures.missed_percent is not None:
        lines.append(
            f"misses {figures.missed_percent:g} % (FNIR at FPIR 1 %, 2,860 enrolled with one "
            "picture each)"
        )
    return [*lines, figures.note] if figures.note else lines


def _facts(name: str, pack: Pack, manifest: Manifest) -> dict[str, Any]:
    return {
        "name": name,
        "title": pack.title,
        "description": pack.description,
        "licence": pack.licence,
        "commercial_use": pack.commercial_use,
        "disputed": pack.disputed,
        "model_id": pack.model_id,
        **manifest.figures.get(name, Figures()).model_dump(mode="json"),
        "bytes": sum(source.size for source in pack.sources.values()),
        "installed": _is_installed(name, pack),
    }


def _is_installed(name: str, pack: Pack) -> bool:
    there = installed(name)
    return there is not None and there.pack.installs_as(pack)


def _licence(name: str, pack: Pack) -> str:
    allowed = "allowed" if pack.commercial_use else "NOT ALLOWED"
    if pack.disputed is not None:
        allowed = f"DISPUTED: {pack.disputed}"
    lines = [
        f"{name}: {pack.licence}; commercial use {allowed}",
        f"  published at {pack.homepage}",
    ]
    if any(file.role != "sample" for file in pack.files):
        lines += [f"  trained by   {pack.trained_by}", f"  trained on   {pack.trained_on}"]
    return "\n".join(lines)


def _consents(name: str, pack: Pack, *, ask: bool) -> bool:
    """Asks at the terminal whether the use is allowed. Returns False without a terminal."""
    if pack.commercial_use or not ask or not sys.stdin.isatty():
        return False
    return click.confirm(f"Is your use of {name} one that this licence allows?")


@contextmanager
def _progress(*, show: bool) -> Iterator[Report]:
    """Shows a progress bar for each action on a terminal, else a line."""
    console = Console(stderr=True)
    if not show:
        yield quiet
        return
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def report(doing: str, done: int, total: int) -> None:
            if doing not in tasks:
                tasks[doing] = bars.add_task(escape(doing), total=total or None)
            bars.update(tasks[doing], completed=done, total=total or None)

        yield report


def _lines() -> Report:
    """Writes a line to standard error for each action."""
    begun: set[str] = set()

    def report(doing: str, _done: int, _total: int) -> None:
        if doing not in begun:
            begun.add(doing)
            click.echo(doing, err=True)

    return report
