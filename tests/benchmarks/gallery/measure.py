"""Interleaved timing of searches, and what else a gallery costs."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from shared.gallery import open_gallery
from tests.benchmarks.gallery.contenders import Contender, Muster
from tests.benchmarks.gallery.people import DIMENSION, People, Rows, Truth

LIMIT = 10
_BUDGET_S = 2.5  # for one contender in one cell, after which it is not repeated again
_READ_BYTES = 512 << 20
_REST_S = 0.03  # until other libraries' threads have stopped spinning


@dataclass(frozen=True, slots=True)
class Cell:
    """One way of searching."""

    threads: int
    batch: int
    threshold: float


@dataclass(slots=True)
class Row:
    """One line of the result: a contender in a cell."""

    contender: str
    n: int
    spectrum: str
    threads: int
    batch: int
    limit: int
    threshold: float
    p50_ms: float
    p95_ms: float
    probes_per_s: float
    recall_at_10: float
    max_error: float
    mismatches: int | None  # lists that are not the oracle's, of all probes that were searched
    bytes_per_template: float
    best_ms: float
    read_gb_per_s: float  # of a plain read on as many threads, measured in between; 0: unknown
    floor_multiple: float | None  # time as a multiple of bytes that must be read / bandwidth


def timed(
    contenders: Sequence[Contender],
    everybody: People,
    right: Truth,
    cell: Cell,
    repetitions: int,
) -> list[Row]:
    """All contenders in one cell, taken in turns; each search has other probes.

    A plain read of memory is one of them: times are compared with it.
    """
    reads: list[float] = []
    times: dict[str, list[float]] = {each.name: [] for each in contenders}
    checks = {each.name: _Check(right) for each in contenders}
    for turn in range(repetitions):
        reads.append(read_once(cell.threads))
        for each in contenders:
            if turn and sum(times[each.name]) > _BUDGET_S:
                continue
            time.sleep(_REST_S)
            for warm in (True, False):
                if warm and turn and sum(times[each.name]) > _BUDGET_S / 2:
                    continue
                numbers = _numbers(everybody.probes, cell.batch, 2 * turn + warm)
                probes = everybody.probes[numbers]
                started = time.perf_counter()
                ids, similarities = each.search(probes, LIMIT, cell.threshold, cell.threads)
                duration = time.perf_counter() - started
                if not warm:
                    times[each.name].append(duration)
                checks[each.name].compare(numbers, ids, similarities, cell.threshold)
    n = everybody.rows.shape[0]
    return [
        _row(each, n, everybody.spectrum, cell, times[each.name], checks[each.name], reads)
        for each in contenders
    ]


@cache
def _block() -> np.ndarray:
    return np.ones(_READ_BYTES // 8, dtype=np.uint64)


def read_once(threads: int) -> float:
    """Bytes a second of one plain read of memory; 0 without the compiled kernel."""
    try:
        from shared.gallery import _kernel
    except ImportError:
        return 0.0
    started = time.perf_counter()
    _kernel.read(_block(), threads)
    return _READ_BYTES / (time.perf_counter() - started)


def _numbers(probes: Rows, batch: int, turn: int) -> np.ndarray:
    return (np.arange(batch) + turn * batch) % probes.shape[0]


def _row(
    each: Contender,
    n: int,
    spectrum: str,
    cell: Cell,
    times: list[float],
    check: "_Check",
    reads: list[float],
) -> Row:
    p50 = float(np.median(times))
    speed = float(np.median(reads))
    return Row(
        contender=each.name,
        n=n,
        spectrum=spectrum,
        threads=cell.threads,
        batch=cell.batch,
        limit=LIMIT,
        threshold=cell.threshold,
        p50_ms=round(1e3 * p50, 3),
        p95_ms=round(1e3 * float(np.percentile(times, 95)), 3),
        probes_per_s=round(cell.batch / p50, 1),
        recall_at_10=round(check.recall, 4),
        max_error=float(f"{check.error:.2e}"),
        mismatches=check.mismatches if each.name == "muster" else None,
        bytes_per_template=each.resident,
        best_ms=round(1e3 * min(times), 3),
        read_gb_per_s=round(speed / 1e9, 1),
        floor_multiple=round(p50 * speed / (n * each.scanned), 2) if speed else None,
    )


class _Check:
    """Recall and error of one contender against the oracle."""

    def __init__(self, right: Truth) -> None:
        self._right = right
        self._hits = self._selected = 0
        self.error = 0.0
        self.mismatches = 0

    @property
    def recall(self) -> float:
        return self._hits / self._selected if self._selected else 1.0

    def compare(
        self, numbers: np.ndarray, ids: np.ndarray, similarities: np.ndarray, threshold: float
    ) -> None:
        for number, mine, values in zip(numbers, ids, similarities, strict=True):
            passing = self._right.similarities[number] >= threshold
            expected = self._right.ids[number][passing]
            kept = mine[(values >= threshold - 1e-7) & (mine >= 0)]
            self._hits += len(set(expected.tolist()) & set(kept.tolist()))
            self._selected += expected.shape[0]
            self.mismatches += kept.tolist() != expected.tolist()
            both = np.flatnonzero(mine[: expected.shape[0]] == expected)
            difference = np.abs(values[both] - self._right.similarities[number][both])
            self.error = max(self.error, float(difference.max(initial=0)))


def mismatches(everybody: People, right: Truth, gallery: Muster) -> dict[str, object]:
    """Every probe at every threshold, one by one and all together, against the oracle."""
    check = _Check(right)
    everyone = np.arange(everybody.probes.shape[0])
    for threshold in (-1.0, 0.35, 0.5):
        for numbers in (*(everyone[i : i + 1] for i in everyone), everyone):
            results = gallery.search(everybody.probes[numbers], LIMIT, threshold, 2)
            check.compare(numbers, *results, threshold)
    return {
        "spectrum": everybody.spectrum,
        "n": everybody.rows.shape[0],
        "probes": everyone.shape[0],
        "lists": 6 * everyone.shape[0],
        "mismatches": check.mismatches,
    }


def upkeep(everybody: People) -> dict[str, float]:
    """What building, changing, storing and opening a gallery of this size costs."""
    rows, n = everybody.rows, everybody.rows.shape[0]
    ids = np.arange(n, dtype=np.uint64)
    figures: dict[str, float] = {"n": n}
    gallery = open_gallery(None, DIMENSION)
    started = time.perf_counter()
    gallery.add(ids, rows)
    figures["add_all_per_s"] = n / (time.perf_counter() - started)
    gallery.close()
    gallery = open_gallery(None, DIMENSION)
    started = time.perf_counter()
    for start in range(0, n, 10_000):
        gallery.add(ids[start : start + 10_000], rows[start : start + 10_000])
    figures["add_by_10000_per_s"] = n / (time.perf_counter() - started)
    figures |= _changes(gallery, rows, n)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "gallery"
        shared = open_gallery(directory, DIMENSION)
        started = time.perf_counter()
        batches = ((ids[i : i + 50_000], rows[i : i + 50_000]) for i in range(0, n, 50_000))
        shared.rebuild(batches, 1)
        figures["write_segments_per_s"] = n / (time.perf_counter() - started)
        shared.close()
        size = sum(path.stat().st_size for path in directory.iterdir())
        figures["disk_bytes_per_template"] = size / n
        np.save(Path(folder) / "probes.npy", everybody.probes)
        figures |= _opened(Path(folder), n)
    return {name: round(value, 4) for name, value in figures.items()}


def _changes(gallery: object, rows: Rows, n: int) -> dict[str, float]:
    """One template added, and found, and removed, again and again."""
    added, removed = [], []
    for turn in range(300):
        one = np.array([n + turn], dtype=np.uint64)
        row = rows[turn : turn + 1]
        started = time.perf_counter()
        gallery.add(one, row)  # type: ignore[attr-defined]
        middle = time.perf_counter()
        added.append(middle - started)
        gone = np.array([turn * (n // 300)], dtype=np.uint64)
        middle = time.perf_counter()
        gallery.remove(gone)  # type: ignore[attr-defined]
        removed.append(time.perf_counter() - middle)
    return {
        f"{name}_one_{label}_ms": 1e3 * float(np.percentile(times, q))
        for name, times in (("add", added), ("remove", removed))
        for label, q in (("p50", 50), ("p99", 99))
    }


def _opened(folder: Path, n: int) -> dict[str, float]:
    """Opening in a new process, with the files in the page cache, and what it then holds."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gallery.opening", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    first, private, shared, rows = (float(value) for value in run.stdout.split())
    return {
        "open_to_first_search_s": first,
        "private_bytes_per_template": private / n,
        "shared_resident_bytes_per_template": shared / n,
        "row_bytes_per_template_after_100": rows / n,
    }


def flat_changes(index: object, rows: Rows) -> dict[str, float]:
    """The same for faiss: adding and removing one row of IndexFlatIP."""
    added, removed = [], []
    for turn in range(8):
        started = time.perf_counter()
        index.add(rows[turn : turn + 1])  # type: ignore[attr-defined]
        middle = time.perf_counter()
        index.remove_ids(np.array([turn], dtype=np.int64))  # type: ignore[attr-defined]
        added.append(middle - started)
        removed.append(time.perf_counter() - middle)
    return {
        "add_one_max_ms": round(1e3 * max(added), 3),
        "add_one_p50_ms": round(1e3 * float(np.median(added)), 3),
        "remove_one_p50_ms": round(1e3 * float(np.median(removed)), 3),
    }


def as_json(rows: Iterable[Row]) -> list[dict[str, object]]:
    return [asdict(row) for row in rows]


def quiet_libraries() -> None:
    """Before numpy and its peers start their threads: none waits in a busy loop."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
