"""`./dev bench accuracy`: the right name, or none, on a folder of labelled pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tests.benchmarks.accuracy.bench import Bench
from tests.benchmarks.accuracy.crowds import crowd_rows
from tests.benchmarks.accuracy.enrolling import enrolling_rows
from tests.benchmarks.accuracy.packs import embedding_packs, pack_rows
from tests.benchmarks.accuracy.policies import policy_rows
from tests.benchmarks.accuracy.shots import shot_rows
from tests.benchmarks.machine import machine_facts
from tests.benchmarks.tables import Row, print_facts, print_table, write_json
from tests.support.weights import use_weights


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the benchmark."""

    title: str
    rows: Callable[[Bench], list[Row]]  # empty: nothing here can be measured with this folder


SECTIONS: Mapping[str, Section] = {
    "policy": Section(
        "The old and the default policy; one picture enrolled, one shot", policy_rows
    ),
    "shots": Section("Pictures enrolled and shots fused", shot_rows),
    "enrolling": Section("Who gets in", enrolling_rows),
    "packs": Section("Installed packs", pack_rows),
    "crowds": Section("Faces found in crowds", crowd_rows),
}


@click.command()
@click.argument("what", nargs=-1, type=click.Choice(list(SECTIONS)))
@click.option(
    "--faces",
    "folder",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Pictures, a folder a person.",
)
@click.option("--pack", "packs", multiple=True, help="Only these.  [default: all installed]")
@click.option(
    "--half",
    type=click.Choice(["a", "b"]),
    help="Measure half of the people, with a calibration that is made of the other half.",
)
@click.option(
    "--no-faces",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Pictures without people.  [default: generated textures and drawings]",
)
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures.")
def main(
    what: tuple[str, ...],
    folder: Path,
    packs: tuple[str, ...],
    half: Any,
    no_faces: Path | None,
    report: Path | None,
) -> None:
    """Measure WHAT on labelled pictures (everything, where nothing is named).

    Each picture is embedded once per pack, as the server does it; templates are kept in the user's
    cache, so a second run takes seconds. Rates have 95 % intervals by a bootstrap over persons.
    """
    use_weights()
    facts = machine_facts()
    print_facts(facts)
    bench = Bench(folder, packs or tuple(embedding_packs()), half, no_faces)
    if what != ("crowds",):  # which needs no templates
        print(bench.description())
    tables: dict[str, list[Row]] = {}
    for name in what or SECTIONS:
        rows = SECTIONS[name].rows(bench)
        if rows:
            tables[name] = rows
            print_table(SECTIONS[name].title, rows)
    if report is not None:
        write_json(report, facts, tables)


if __name__ == "__main__":
    main()
