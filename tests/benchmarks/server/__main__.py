"""`./dev bench server`: requests a second through a real server, with its CPU time for each.

A `match-server serve` on loopback, a collection of N random unit vectors (a person each), and
clients in a process of their own. Half of the probes are noisy copies of enrolled templates.
"""

import tempfile
from pathlib import Path

import click

from match_server.container import build_services
from match_server.process.bootstrap import prepare
from match_server.settings import Settings
from tests.benchmarks.machine import machine_facts
from tests.benchmarks.server.filling import enroll_random
from tests.benchmarks.server.in_process import in_process
from tests.benchmarks.server.load import Job
from tests.benchmarks.server.loads import key_of, loads_of
from tests.benchmarks.server.peers import PEERS, compare
from tests.benchmarks.server.serving import measured, row_of, served
from tests.benchmarks.tables import Row, print_facts, print_table, write_json

_PROBES = 256


@click.command()
@click.option("--n", default=10_000, show_default=True, help="Enrolled templates.")
@click.option("--clients", default="1,8,32,128", show_default=True, help="Connections at once.")
@click.option("--seconds", default=4.0, show_default=True, help="Measured for each row.")
@click.option("--workers", type=int, help="Worker processes of each server; default: the server's.")
@click.option("--threads", default=64, show_default=True, help="Threads of each worker.")
@click.option(
    "--only", type=click.Choice(["search", "picture", "probe", "probes"]), help="One kind alone."
)
@click.option(
    "--peers",
    is_flag=False,
    flag_value="usual",
    default="",
    help=f"The same searches through other servers in the same run: all that suit N, or some of "
    f"{','.join(PEERS)}. They are installed into var/bench at the first run.",
)
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures.")
def main(
    n: int,
    clients: str,
    seconds: float,
    workers: int | None,
    threads: int,
    only: str | None,
    peers: str,
    report: Path | None,
) -> None:
    """Searches by vector and by picture, and probes, a second through a real server."""
    counts = [int(count) for count in clients.split(",") if count]
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), workers=workers, threads=threads, port=0)
        kind = {"workers": settings.worker_processes, "threads": threads}
        facts = {**machine_facts(), "templates": n, **kind}
        print_facts(facts)
        prepare(settings)
        if peers:
            tables = compare(settings, n, counts, seconds, peers)
        else:
            tables = _alone(settings, n, counts, seconds, only)
    if report is not None:
        write_json(report, facts, tables)


def _alone(
    settings: Settings, n: int, clients: list[int], seconds: float, only: str | None
) -> dict[str, list[Row]]:
    """This server without peers: each kind of request in process, and through the server."""
    services = build_services(settings)
    try:
        loads = loads_of(enroll_random(services, n, _PROBES), services.faces.model_id)
        loads = [load for load in loads if only in (None, load.name)]
        keys = {role: key_of(services, role) for role in {load.role for load in loads}}
        direct = [in_process(services, load, keys[load.role]) for load in loads]
    finally:
        services.close()
    print_table("One call in process (no HTTP, one thread)", direct)
    rows: list[Row] = []
    with served(settings) as (process, port):
        for load in loads:
            for count in clients:
                if count > load.most_clients:
                    continue
                key = keys[load.role]
                job = Job("127.0.0.1", port, load.path, key, load.bodies, count, seconds)
                row = row_of(measured(process, job))
                probes = {"probes_per_s": round(load.probes * float(row["requests_per_s"] or 0), 1)}
                rows.append({"load": load.name, "clients": count, **probes, **row})
    if rows:
        print_table("Through the server, keep-alive clients in another process", rows)
    return {"in_process": direct, "rows": rows}


if __name__ == "__main__":
    main()
