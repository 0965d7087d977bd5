"""Progress of a long command: a bar on a terminal, else a plain line every ten seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import click

if TYPE_CHECKING:
    from rich.progress import Progress

_EVERY_S: Final = 10.0


class ProgressDisplay(Protocol):
    """What a command calls to show its progress."""

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Shows that `done` of `total` is done; without a total, the last known total stays."""
        ...

    def print(self, line: str) -> None:
        """Prints a line of the command's own output."""
        ...


@contextmanager
def progress(
    title: str,
    total: int | None = None,
    *,
    done: int = 0,
    counts: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[ProgressDisplay]:
    """Shows progress on standard error while the block runs; without `counts`, as a share alone.

    Print lines of the command's own output with `print` of the display, so that the bar does not
    break them.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(title, total, counts, clock)
        return
    columns = [TextColumn("{task.description}"), BarColumn()]
    columns.append(TextColumn("{task.fields[reached]}") if counts else TaskProgressColumn())
    columns.append(TimeRemainingColumn())
    # rich would redirect standard output to the bar, and a file would not get it.
    with Progress(*columns, console=console, redirect_stdout=False) as bar:
        yield _Bar(bar, title, total, done)


class _Bar:
    def __init__(self, bar: "Progress", title: str, total: int | None, done: int) -> None:
        self._bar = bar
        self._task = bar.add_task(title, total=total, completed=done, reached=_reached(done, total))

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        known = self._bar.tasks[0].total if total is None else total
        reached = _reached(done, None if known is None else int(known), note=note)
        self._bar.update(self._task, completed=done, total=total, reached=reached)

    def print(self, line: str) -> None:
        from rich.text import Text

        if sys.stdout.isatty():  # the same terminal: above the bar
            self._bar.console.print(Text(line), soft_wrap=True)
        else:
            click.echo(line)


class _Lines:
    def __init__(
        self, title: str, total: int | None, counts: bool, clock: Callable[[], float]
    ) -> None:
        self._title = title
        self._total = total
        self._counts = counts
        self._clock = clock
        self._last_s = clock()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        self._total = self._total if total is None else total
        now_s = self._clock()
        if now_s - self._last_s < _EVERY_S:
            return
        self._last_s = now_s
        if self._counts or not self._total:
            reached = _reached(done, self._total, share=True, note=note)
        else:
            reached = f"{done / self._total:.0%}"
        click.echo(f"{self._title}: {reached}", err=True)

    def print(self, line: str) -> None:
        click.echo(line)


def _reached(done: int, total: int | None, *, share: bool = False, note: str = "") -> str:
    text = f"{done:,}" if total is None else f"{done:,} of {total:,}"
    if share and total:
        text += f" ({done / total:.0%})"
    return f"{text}, {note}" if note else text
