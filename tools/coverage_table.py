"""Prints what `coverage` measured: a line for each package, and the files under 80 %."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

LOW_PERCENT = 80.0


class Counts:
    """Statements and branches of some files, and how many of each were run."""

    def __init__(self) -> None:
        self.lines = self.lines_run = self.branches = self.branches_run = 0

    def add(self, summary: dict[str, int]) -> None:
        self.lines += summary["num_statements"]
        self.lines_run += summary["covered_lines"]
        self.branches += summary["num_branches"]
        self.branches_run += summary["covered_branches"]

    @property
    def percent(self) -> float:
        """Of lines and branches together."""
        return _percent(self.lines_run + self.branches_run, self.lines + self.branches)

    def row(self, name: str) -> str:
        lines = _percent(self.lines_run, self.lines)
        branches = _percent(self.branches_run, self.branches)
        return f"{name:<52}{self.lines:>7}{lines:>8.1f} %{self.branches:>8}{branches:>8.1f} %"


def main() -> None:
    packages: dict[str, Counts] = defaultdict(Counts)
    low: dict[str, Counts] = {}
    for name, summary in sorted(_measured().items()):
        path = Path(name)
        for package in (str(path.parent), path.parts[0] + " in all", "everything"):
            packages[package].add(summary)
        file = Counts()
        file.add(summary)
        if file.percent < LOW_PERCENT:
            low[name] = file
    print(f"{'package':<52}{'lines':>7}{'run':>10}{'branches':>8}{'run':>10}")
    for name, counts in sorted(packages.items()):
        print(counts.row(name))
    print(f"\n{len(low)} files under {LOW_PERCENT:.0f} % of lines and branches together")
    for name, counts in sorted(low.items(), key=lambda item: item[1].percent):
        print(counts.row(name))


def _measured() -> dict[str, dict[str, int]]:
    """The summary of each file."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        command = [sys.executable, "-m", "coverage", "json", "--quiet", "-o", str(report)]
        subprocess.run(command, check=True)
        files = json.loads(report.read_text("utf-8"))["files"]
    return {name: file["summary"] for name, file in files.items()}


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 100.0


if __name__ == "__main__":
    main()
