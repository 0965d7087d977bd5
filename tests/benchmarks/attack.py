"""`./dev bench attack`: random hostile input, for any time."""

import importlib
import logging
import pkgutil
import sys
import time
import traceback

import click
from rich.console import Console
from rich.table import Table

from tests import attacks
from tests.benchmarks.machine import machine_facts
from tests.benchmarks.tables import print_facts


def _names() -> list[str]:
    """The modules of `tests/attacks` that can be run; the others hold tests."""
    modules = (module.name for module in pkgutil.iter_modules(attacks.__path__))
    return sorted(name for name in modules if not name.startswith("test_"))


@click.command()
@click.argument("what", nargs=-1, type=click.Choice(_names()))
@click.option("--seconds", default=60.0, show_default=True, help="For each.")
@click.option("--seed", default=0, show_default=True, help="The same makes the same.")
def main(what: tuple[str, ...], seconds: float, seed: int) -> None:
    """Attack with WHAT (all, where nothing is named) and say what was tried.

    Exit status 1 where anything was found; the traceback has its seed. CI runs each for about a
    second with fixed seeds.
    """
    print_facts(machine_facts())
    logging.disable(logging.WARNING)  # thousands of galleries are damaged
    table = Table("attack", "seconds", "what was tried")
    wrong = 0
    for name in what or _names():
        started_s = time.monotonic()
        try:
            output = importlib.import_module(f"tests.attacks.{name}").run(seconds, seed)
        except Exception as error:
            traceback.print_exc()
            output, wrong = f"found: {type(error).__name__}: {error}", wrong + 1
        table.add_row(name, f"{time.monotonic() - started_s:.0f}", output)
    Console(width=120).print(table)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
