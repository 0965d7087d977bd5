"""`./dev bench faults`: kill -9 of server or database during many enrollments, again and again."""

import contextlib
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import click

from tests.benchmarks.machine import machine_facts
from tests.benchmarks.tables import print_facts
from tests.support.postgres import postgres
from tests.support.server_kills import Trial, Victim

_KINDS: dict[str, tuple[str, Victim]] = {  # what the data lie in, and what is killed
    "sqlite-server": ("sqlite", "server"),
    "postgresql-server": ("postgresql", "server"),
    "postgresql-database": ("postgresql", "database"),
}


@click.command()
@click.option("--rounds", default=20, show_default=True, help="Kills of each kind.")
@click.option("--enrollments", default=1000, show_default=True, help="In each round.")
@click.option("--clients", default=1000, show_default=True, help="At once.")
@click.option("--only", type=click.Choice(list(_KINDS)), help="One kind alone.")
def main(rounds: int, enrollments: int, clients: int, only: str | None) -> None:
    """Kill the server over SQLite, the server over PostgreSQL, and PostgreSQL, while many enroll.

    Exit status 0 only when everything that was acknowledged is there and found afterwards, and
    nothing that was refused is.
    """
    print_facts(machine_facts())
    wrong = 0
    with tempfile.TemporaryDirectory() as path, contextlib.ExitStack() as stack:
        folder = Path(path)
        server = stack.enter_context(postgres(durable=True))
        for name, (kind, victim) in _KINDS.items():
            if only not in (None, name):
                continue
            place = folder / name
            place.mkdir()
            trial = Trial(place, server if kind == "postgresql" else None)
            with trial.running():
                for number in range(rounds):
                    done = trial.round(victim, enrollments, clients, seed=number)
                    click.echo(f"{kind}, kill -9 of the {victim}, {number + 1}: {asdict(done)}")
                    wrong += len(done.wrong)
                last = trial.all_found()
                wrong += len(last)
                click.echo(f"after all rounds, of {len(trial.promises.stored)} stored: {last}")
    click.echo(f"{wrong} contradictions")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
