"""`./dev bench faults`: kill -9 of server, database or broker under load, again and again."""

import contextlib
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import click

from tests.benchmarks.machine import machine_facts
from tests.benchmarks.tables import print_facts
from tests.end_to_end.test_broker_minute import stop_brokers_under_load
from tests.support.postgres import postgres
from tests.support.server_kills import Trial, Victim

_KINDS: dict[str, tuple[str, Victim]] = {  # what the data lie in, and what is killed
    "sqlite-server": ("sqlite", "server"),
    "postgresql-server": ("postgresql", "server"),
    "postgresql-database": ("postgresql", "database"),
}
_BROKER = "broker"


@click.command()
@click.option("--rounds", default=20, show_default=True, help="Kills of each kind.")
@click.option("--enrollments", default=1000, show_default=True, help="In each round.")
@click.option("--clients", default=1000, show_default=True, help="At once.")
@click.option("--outage-s", default=60.0, show_default=True, help="Without the MQTT broker.")
@click.option("--only", type=click.Choice([*_KINDS, _BROKER]), help="One kind alone.")
def main(rounds: int, enrollments: int, clients: int, outage_s: float, only: str | None) -> None:
    """Kill the server over SQLite, the server over PostgreSQL, and PostgreSQL, while many enroll.

    Then kill two MQTT brokers, once, while four boxes send probes.

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
        if only in (None, _BROKER):
            stop_brokers_under_load(folder, outage_s)  # raises where a probe is lost
            click.echo(f"{outage_s:g} s without the brokers: each probe arrived once")
    click.echo(f"{wrong} contradictions")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
