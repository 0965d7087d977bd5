"""The servers that are measured beside each other, all of them started before the first load."""

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

from match_server.container import build_services
from match_server.settings import Settings
from tests.benchmarks.gallery.people import Rows
from tests.benchmarks.server.filling import enroll_rows
from tests.benchmarks.server.load import Figures, Job
from tests.benchmarks.server.loads import SEARCH, key_of, vector_bodies
from tests.benchmarks.server.serving import ended, measured, served, wait_for

_FLASK_THREADS = 8


@dataclass(frozen=True, slots=True)
class Contender:
    """A running server: a load of many searches, and one search alone."""

    name: str
    load: Callable[[int, float], Figures]  # clients, seconds
    search: Callable[[int], Sequence[int]] | None = None  # number of a probe → its ten best rows


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of an HTTP server, and the requests that are sent there in turns."""

    server: psutil.Process
    port: int
    bodies: list[str]
    key: str = ""
    path: str = SEARCH
    method: str = "POST"

    def load(self, clients: int, seconds: float) -> Figures:
        """Sends requests by many clients."""
        job = Job(
            host="127.0.0.1",
            port=self.port,
            path=self.path,
            key=self.key,
            bodies=self.bodies,
            clients=clients,
            seconds=seconds,
            method=self.method,
        )
        return measured(self.server, job)

    def response(self, number: int) -> Any:
        """The response to one request."""
        response = requests.request(
            self.method,
            f"http://127.0.0.1:{self.port}{self.path}",
            data=self.bodies[number % len(self.bodies)],
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
            timeout=60,
        )
        response.raise_for_status()
        return response.json()


@contextlib.contextmanager
def muster(settings: Settings, rows: Rows, probes: Rows) -> Iterator[Endpoint]:
    """This product's server, with the rows enrolled: a person for each."""
    services = build_services(settings)
    try:
        enroll_rows(services, rows)
        key, model = key_of(services, "searcher"), services.faces.model_id
    finally:
        services.close()
    with served(settings) as (server, port):
        yield Endpoint(server, port, vector_bodies(probes, model), key)


def muster_search(endpoint: Endpoint) -> Contender:
    """Searches of this product: row n is enrolled as the person p(n + 1)."""

    def search(number: int) -> list[int]:
        candidates = endpoint.response(number)["probes"][0]["candidates"]
        return [int(candidate["person"]["id"].removeprefix("p")) - 1 for candidate in candidates]

    return Contender("muster", endpoint.load, search)


@contextlib.contextmanager
def flask(
    app: str,
    bodies: list[str],
    workers: int,
    *,
    threads: int = _FLASK_THREADS,
    preload: bool = True,
) -> Iterator[Endpoint]:
    """A Flask application, by gunicorn with threads.

    Each request computes on one thread: with a pool of threads for each product of matrices, many
    requests at once take several times as long.
    """
    port = _free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
    command += ["--worker-class", "gthread", "--threads", str(threads)]
    command += ["--workers", str(workers), "--timeout", "300", "--keep-alive", "60"]
    command += ["--log-level", "warning", *(["--preload"] if preload else []), app]
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with ended(command, env={**os.environ, **single}) as process:
        wait_for(f"http://127.0.0.1:{port}/readyz")
        yield Endpoint(psutil.Process(process.pid), port, bodies)


@contextlib.contextmanager
def flask_search(library: str, file: Path, bodies: list[str], workers: int) -> Iterator[Contender]:
    """A library behind Flask; qdrant's engine cannot be shared by several processes."""
    alone = library == "qdrant"
    app = f"tests.benchmarks.server.flask_search:create_app({library!r}, {str(file)!r})"
    with flask(app, bodies, 1 if alone else workers, preload=not alone) as endpoint:

        def search(number: int) -> list[int]:
            return [candidate["id"] for candidate in endpoint.response(number)["candidates"]]

        yield Contender(f"{library}, Flask", endpoint.load, search)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
