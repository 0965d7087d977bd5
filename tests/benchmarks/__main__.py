"""`./dev bench`: measure on this machine; every table comes with the machine's facts."""

import runpy
import signal
import sys
from pathlib import Path
from typing import NoReturn

import click
import cv2

from tests.benchmarks.machine import machine_facts, pin_to_single_core
from tests.benchmarks.peers import bench_peers
from tests.benchmarks.pipeline import bench_pipeline
from tests.benchmarks.stages import bench_stages
from tests.benchmarks.tables import print_facts, write_json

WORK = Path(__file__).parent.parent.parent / "var" / "bench"
BENCHES = {"stages": bench_stages, "pipeline": bench_pipeline, "peers": bench_peers}
REPETITIONS = {"stages": 60, "pipeline": 5, "peers": 12}
WITH_OPTIONS = {"gallery", "server", "enrollment", "box", "edge", "faults", "accuracy", "attack"}
"""Benchmarks with options of their own."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("what", nargs=-1, type=click.Choice(list(BENCHES)))
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures.")
def main(what: tuple[str, ...], report: Path | None) -> None:
    """Measure WHAT (stages, pipeline and peers, where nothing is named), on one core:

    \b
    stages    each model, and what our code adds to it
    pipeline  the agent: frames a second, memory, cost of a frame
    peers     the same frames through face_recognition / dlib
    gallery   the 1:N search beside its peers; `./dev bench gallery --help`
    server    searches and probes a second over HTTP, alone or with --peers beside pgvector, faiss,
              qdrant, numpy and face_recognition; `./dev bench server --help`
    enrollment  vectors in bulk, and the start with them; `./dev bench enrollment --help`
    box       a gallery on the box; `./dev bench box --help`
    edge      a camera's cost by scene, latency, accuracy, memory; `./dev bench edge --help`
    accuracy  the right name, or none, on a folder of people; `./dev bench accuracy --help`
    faults    no speed: kill -9 while many enroll; `./dev bench faults --help`
    attack    no speed: hostile files, pictures and messages; `./dev bench attack --help`
    """
    WORK.mkdir(parents=True, exist_ok=True)
    pin_to_single_core()
    cv2.setNumThreads(1)
    facts = machine_facts()
    print_facts(facts)
    names = what or tuple(BENCHES)
    tables = {name: BENCHES[name](WORK, REPETITIONS[name]) for name in names}
    if report is not None:
        write_json(report, facts, tables)


def _leave(number: int, _frame: object) -> NoReturn:
    """A benchmark that is terminated ends the servers that it started."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    name, *arguments = sys.argv[1:] or [""]
    if name in WITH_OPTIONS:
        sys.argv[1:] = arguments
        runpy.run_module(f"tests.benchmarks.{name}", run_name="__main__", alter_sys=True)
    else:
        main()
