"""The whole run: sizes, cells, spectra, upkeep, and the figures that are to be reached."""

import sys
from dataclasses import dataclass

from shared.gallery.__main__ import read_bandwidth
from shared.gallery.kernels import best_kernel
from tests.benchmarks.gallery.contenders import PEERS, Contender, Faiss, Muster
from tests.benchmarks.gallery.goals import goals
from tests.benchmarks.gallery.measure import (
    Cell,
    Row,
    as_json,
    flat_changes,
    mismatches,
    timed,
    upkeep,
)
from tests.benchmarks.gallery.people import SPECTRA, people, truth
from tests.benchmarks.machine import machine_facts
from tests.benchmarks.tables import print_facts, print_table


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    sizes: tuple[int, ...]
    peers: tuple[str, ...]
    threads: tuple[int, ...]
    batches: tuple[int, ...]
    spectrum: str
    probes: int
    repetitions: int
    quick: bool


def run(plan: Plan) -> dict[str, object]:
    bandwidth = {t: read_bandwidth(t) or 0.0 for t in plan.threads}
    facts: dict[str, str | int | float] = {
        **machine_facts(),
        "kernel": best_kernel().name,
        **{f"read_gb_per_s_{t}": round(speed / 1e9, 1) for t, speed in bandwidth.items()},
    }
    print_facts(facts)
    rows: list[Row] = []
    costs: list[dict[str, float]] = []
    exactness: list[dict[str, object]] = []
    flat: dict[str, float] = {}
    for n in plan.sizes:
        _say(f"{n:,} templates: making people, and the truth by brute force")
        everybody = people(n, plan.spectrum, plan.probes)
        right = truth(everybody)
        muster = Muster()
        contenders: list[Contender] = [muster, *(PEERS[name]() for name in plan.peers)]
        for each in contenders:
            _say(f"  building {each.name}")
            each.build(everybody.rows)
        for threads in plan.threads:
            for batch in plan.batches:
                _say(f"  {threads} threads, {batch} probes")
                some = timed(
                    contenders, everybody, right, Cell(threads, batch, -1.0), plan.repetitions
                )
                for threshold in (0.35, 0.5):
                    cell = Cell(threads, batch, threshold)
                    some += timed([muster], everybody, right, cell, plan.repetitions)
                rows += some
        for each in contenders:
            if isinstance(each, Faiss) and each.name == "faiss-flat" and n == max(plan.sizes):
                flat = flat_changes(each.index, everybody.rows)
        exactness.append(mismatches(everybody, right, muster))
        del contenders, muster
        if not plan.quick:
            _say("  building, changing, storing, opening")
            costs.append(upkeep(everybody))
    if not plan.quick:
        for spectrum in SPECTRA.keys() - {plan.spectrum}:
            _say(f"exactness and time on the {spectrum} spectrum")
            everybody = people(max(plan.sizes), spectrum, plan.probes, seed=1)
            right, muster = truth(everybody), Muster()
            muster.build(everybody.rows)
            exactness.append(mismatches(everybody, right, muster))
            for threshold in (-1.0, 0.35, 0.5):
                cell = Cell(plan.threads[-1], 1, threshold)
                rows += timed([muster], everybody, right, cell, plan.repetitions)
    results = {
        "machine": facts,
        "rows": as_json(rows),
        "upkeep": costs,
        "faiss_flat_upkeep": flat,
        "exactness": exactness,
    }
    results["goals"] = goals(rows, costs, exactness, max(plan.sizes))
    _show(rows, costs, exactness, results["goals"])
    return results


def _show(
    rows: list[Row],
    costs: list[dict[str, float]],
    exactness: list[dict[str, object]],
    reached: list[dict[str, object]],
) -> None:
    for n in sorted({row.n for row in rows}):
        lines = [_line(row) for row in rows if row.n == n]
        print_table(f"{n:,} templates of 512 values", lines)
    for title, table in (("Upkeep", costs), ("Exactness", exactness), ("Goals", reached)):
        if table:
            print_table(title, table)  # type: ignore[arg-type]


def _line(row: Row) -> dict[str, str | int | float | None]:
    return {
        "contender": row.contender,
        "spectrum": row.spectrum,
        "threads": row.threads,
        "batch": row.batch,
        "threshold": row.threshold,
        "p50_ms": row.p50_ms,
        "p95_ms": row.p95_ms,
        "probes_per_s": row.probes_per_s,
        "recall": row.recall_at_10,
        "max_error": row.max_error,
        "bytes": row.bytes_per_template,
        "best_ms": row.best_ms,
        "x_floor": row.floor_multiple,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
