"""`./dev bench edge`: cost by scene, latency, accuracy, 8-bit models, memory."""

import os
from pathlib import Path

import click
import cv2

from models.face_models import open_models
from tests.benchmarks.edge.accuracy import bench_accuracy
from tests.benchmarks.edge.cost import bench_scenes
from tests.benchmarks.edge.latency import bench_latency
from tests.benchmarks.edge.looks import bench_looks
from tests.benchmarks.edge.people import cast
from tests.benchmarks.edge.quantised import bench_int8
from tests.benchmarks.edge.soak import soak
from tests.benchmarks.machine import machine_facts, pin_to_single_core
from tests.benchmarks.tables import Row, print_facts, write_json

WORK = Path(__file__).parents[3] / "var" / "bench"


@click.command()
@click.argument(
    "what", nargs=-1, type=click.Choice(["scenes", "latency", "accuracy", "looks", "int8", "soak"])
)
@click.option("--minutes", default=5.0, show_default=True, help="How long `soak` watches.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures.")
def main(what: tuple[str, ...], minutes: float, report: Path | None) -> None:
    """Measure WHAT on one core (`soak` on all). Default: everything but `soak`.

    \b
    scenes    frames a second and CPU time of four scenes at three sizes
    latency   from the first usable face to the acknowledged probe
    accuracy  with and without best shot, and with fusion
    looks     the same for tracks of several photographs (pictures of MUSTER_TEST_LFW)
    int8      the models in 8 bits: speed and loss
    soak      memory of a real agent and its server, with two cameras, over hours
    """
    WORK.mkdir(parents=True, exist_ok=True)
    if what != ("soak",):
        pin_to_single_core()
    cv2.setNumThreads(1)
    facts = machine_facts()
    print_facts(facts)
    models = open_models("compact")
    portraits = cast(models)
    people = len({portrait.person for portrait in portraits})
    print(f"{len(portraits)} portraits of {people} people")
    tables: dict[str, list[Row]] = {}
    for name in what or ("scenes", "latency", "accuracy", "int8"):
        match name:
            case "scenes":
                tables[name] = bench_scenes(WORK, models, portraits)
            case "latency":
                tables[name] = bench_latency(WORK, models, portraits)
            case "accuracy":
                tables[name] = bench_accuracy(models, portraits)
            case "looks":
                tables[name] = bench_looks(models, labelled_pictures())
            case "int8":
                tables[name] = bench_int8(models, portraits)
            case "soak":
                tables[name] = soak(WORK, portraits, minutes)
    if report is not None:
        write_json(report, facts, tables)


def labelled_pictures() -> Path:
    """A folder with one folder for each person."""
    folder = os.environ.get("MUSTER_TEST_LFW")
    if not folder:
        raise click.UsageError("looks needs a folder of labelled pictures: set MUSTER_TEST_LFW")
    return Path(folder)


if __name__ == "__main__":
    main()
