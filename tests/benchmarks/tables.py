"""Measuring and printing: medians, 95th percentiles, one table for each question."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

Row = Mapping[str, str | int | float | None]


def milliseconds(call: Callable[[], object], *, repetitions: int, warm_up: int = 3) -> list[float]:
    """The time of each of `repetitions` calls, in milliseconds, after `warm_up` unmeasured ones."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, repetitions: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """The times of several contenders, taken in turns, so that all meet the same machine."""
    for _ in range(warm_up):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            times[name] += milliseconds(call, repetitions=1, warm_up=0)
    return times


def median(times: Sequence[float]) -> float:
    return round(float(np.median(times)), 3)


def p95(times: Sequence[float]) -> float:
    return round(float(np.percentile(times, 95)), 3)


def print_table(title: str, rows: Sequence[Row]) -> None:
    """One table; the columns are the keys of the first row."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in rows[0]:
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*("–" if value is None else str(value) for value in row.values()))
    Console(width=max(150, Console().width)).print(table)


def print_facts(facts: Row) -> None:
    print(" · ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items()))


def write_json(path: Path, facts: Row, tables: Mapping[str, Sequence[Row]]) -> None:
    path.write_text(json.dumps({"machine": facts, **tables}, indent=2) + "\n")
