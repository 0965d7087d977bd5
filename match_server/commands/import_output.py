"""What `match-server import` shows: verdicts, a progress bar, and the sum at the end."""

import json
from collections import Counter
from collections.abc import Iterable

import click

from match_server.commands.progress import progress
from match_server.schemas.batches import BatchVerdict
from match_server.services.batches.imports import Plan


def show(planned: Plan, verdicts: Iterable[BatchVerdict], *, as_json: bool) -> Counter[str]:
    """Tell of each verdict as it comes; answers how many there are of each status.

    Verdicts go to standard output, a line each (those of templates that are well only with
    `as_json`), the sums last; the progress goes to standard error.
    """
    counts: Counter[str] = Counter(accepted=0, duplicate=0, refused=0)
    with progress("Importing", planned.total, done=planned.done_before) as display:
        for verdict in verdicts:
            counts[verdict.status] += 1
            line = _line(verdict, as_json=as_json)
            if line is not None:
                display.print(line)
            reached = max(verdict.index + 1, planned.done_before)
            display.update(reached, note=f"{counts['refused']:,} refused")
    if as_json:
        click.echo(json.dumps({**counts, "done_before": planned.done_before}))
    else:
        before = f", {planned.done_before} done before" if planned.done_before else ""
        said = ", ".join(f"{number} {status}" for status, number in counts.items())
        click.echo(f"{said}{before}.")
    return counts


def _line(verdict: BatchVerdict, *, as_json: bool) -> str | None:
    if as_json:
        return verdict.model_dump_json(exclude_none=True)
    what = verdict.file or f"line {verdict.index + 1}"
    if verdict.status == "refused":
        return f"refused    {what}: {verdict.message}"
    return f"{verdict.status:10} {what}" if verdict.file is not None else None
