"""`./dev bench server`: requests a second through a real server, with its CPU time for each.

A `match-server serve` on loopback, a collection of N random unit vectors (a person each), and
clients in a process of their own. Half of the probes are noisy copies of enrolled templates.
"""

import base64
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import psutil
import requests
from numpy.typing import NDArray
from sqlalchemy import insert

from match_server.app import create_app
from match_server.container import Services, build_services
from match_server.data_folder import page_secret
from match_server.db.tables import Person, Template
from match_server.process.bootstrap import prepare
from match_server.schemas.keys import KeyCreate
from match_server.services.change_feed import record
from match_server.services.lookups import collection_named
from match_server.settings import Settings
from models.samples import sample_path
from shared.clock import rfc3339
from shared.ids import new_id
from tests.benchmarks.load import NEW_ID, Job
from tests.benchmarks.machine import machine_facts
from tests.benchmarks.tables import Row, print_facts, print_table, write_json
from tests.support.waiting import wait_until

_CHUNK = 10_000
_BODIES = 256
_SEARCH = "/v1/collections/default/search"
_PROBES = "/v1/probes"
_LIST = 32
_LOAD_S = 300

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of request."""

    name: str
    path: str
    role: str
    bodies: list[str]
    probes: int = 1  # in one request
    most_clients: int = 1000
    calls: int = 400  # of the application itself, in process


@click.command()
@click.option("--n", default=10_000, show_default=True, help="Enrolled templates.")
@click.option("--clients", default="1,8,32,128", show_default=True, help="Connections at once.")
@click.option("--seconds", default=4.0, show_default=True, help="Measured for each row.")
@click.option("--workers", default=1, show_default=True, help="Worker processes of the server.")
@click.option("--threads", default=64, show_default=True, help="Threads of each worker.")
@click.option(
    "--only", type=click.Choice(["search", "picture", "probe", "probes"]), help="One kind alone."
)
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures.")
def main(
    n: int,
    clients: str,
    seconds: float,
    workers: int,
    threads: int,
    only: str | None,
    report: Path | None,
) -> None:
    """Searches by vector and by picture, and probes, a second through a real server."""
    facts = {**machine_facts(), "templates": n, "workers": workers, "threads": threads}
    print_facts(facts)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), workers=workers, threads=threads, port=0)
        prepare(settings)
        services = build_services(settings)
        try:
            loads, keys = _filled(services, n)
            loads = [load for load in loads if only in (None, load.name)]
            in_process = [_in_process(services, load, keys[load.role]) for load in loads]
        finally:
            services.close()
        print_table("One call in process (no HTTP, one thread)", in_process)
        rows: list[Row] = []
        with served(settings) as (process, port):
            for load in loads:
                for count in map(int, filter(None, clients.split(","))):
                    if count > load.most_clients:
                        continue
                    job = _job(load, keys[load.role], port, count, seconds)
                    rows.append(_measured(process, load, job))
    if rows:
        print_table("Through the server, keep-alive clients in another process", rows)
    if report is not None:
        write_json(report, facts, {"in_process": in_process, "rows": rows})


def _filled(services: Services, n: int) -> tuple[list[Load], dict[str, str]]:
    """Enrolls n templates; returns the requests to send, and a key for each role."""
    probes = enrolled(services, n, _BODIES)
    model, picture = services.faces.model_id, _thumbnail()
    messages = [_message(vector, model, picture) for vector in probes]
    loads = [
        Load("search", _SEARCH, "searcher", [_search(vector, model) for vector in probes]),
        Load("picture", _SEARCH, "searcher", _pictures(), most_clients=32, calls=20),
        Load("probe", _PROBES, "device", [f"[{message}]" for message in messages]),
        Load("probes", _PROBES, "device", [f"[{','.join(messages[:_LIST])}]"], _LIST, 8, 20),
    ]
    roles: dict[str, Any] = {load.role: load.role for load in loads}
    keys = {
        role: services.keys.create(
            KeyCreate(role=key_role, device="bench" if key_role == "device" else None)
        ).key
        for role, key_role in roles.items()
    }
    return loads, keys


def enrolled(services: Services, n: int, probes: int) -> Vectors:
    """Enrolls n random unit vectors; returns probes, noisy copies and strangers in turn."""
    started_s = time.perf_counter()
    services.first_start()
    random = np.random.default_rng(0)
    for start in range(0, n, _CHUNK):
        vectors = _unit(random.standard_normal((min(_CHUNK, n - start), 512), dtype=np.float32))
        _enroll(services, start, vectors)
        if start == 0:
            some = vectors[: probes // 2]
    noisy = _unit(some + _unit(random.standard_normal(some.shape, dtype=np.float32)))
    strangers = _unit(random.standard_normal((probes // 2, 512), dtype=np.float32))
    print(f"{n} templates enrolled in {time.perf_counter() - started_s:.1f} s")
    return np.stack([noisy, strangers[: noisy.shape[0]]], axis=1).reshape(-1, 512)


def _enroll(services: Services, start: int, vectors: Vectors) -> None:
    """Persons start + 1 … with a template each, in bulk; one line in the feed tells of them."""
    now = datetime.now(UTC)
    rows = vectors.astype("<f2")
    with services.database.write() as session:
        collection = collection_named(session, services.settings.default_collection)
        persons, templates = [], []
        for number, row in enumerate(rows, start=start + 1):
            persons.append(
                {
                    "number": number,
                    "id": f"p{number}",
                    "collection_number": collection.number,
                    "name": f"Person {number}",
                    "meta": {},
                    "created_at": now,
                }
            )
            templates.append(
                {
                    "number": number,
                    "id": new_id(),
                    "collection_number": collection.number,
                    "person_number": number,
                    "model_id": collection.model_id,
                    "vector": row.tobytes(),
                    "created_at": now,
                }
            )
        session.execute(insert(Person), persons)
        session.execute(insert(Template), templates)
        collection.person_count += len(persons)
        collection.template_count += len(templates)
        record(session, collection.number, "collection_updated", collection.name, now)


def _unit(rows: Vectors) -> Vectors:
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _base64(vector: Vectors) -> str:
    return base64.b64encode(vector.astype("<f2").tobytes()).decode()


def _search(vector: Vectors, model: str) -> str:
    return json.dumps({"templates": [{"vector": _base64(vector), "model_id": model}], "limit": 10})


def _pictures() -> list[str]:
    """Portraits of about a megapixel, as a client would send them."""
    names = ("obama.jpg", "obama2.jpg", "biden.jpg")
    files = [sample_path(name).read_bytes() for name in names]
    return [json.dumps({"image": base64.b64encode(one).decode(), "limit": 10}) for one in files]


def _message(vector: Vectors, model: str, picture: str) -> str:
    """A probe of a new track, as an edge agent sends it."""
    message = {
        "schema_version": 1,
        "probe_id": NEW_ID,
        "device": "bench",
        "camera": "front",
        "sequence": 1,
        "captured_at": rfc3339(datetime.now(UTC)),
        "track_id": NEW_ID,
        "model_id": model,
        "template": _base64(vector),
        "quality": {"score": 0.8, "factors": []},
        "detection_score": 0.95,
        "box": [10.0, 20.0, 110.0, 140.0],
        "frame_size": [1280, 720],
        "thumbnail": picture,
    }
    return json.dumps(message)


def _thumbnail() -> str:
    """A JPEG of some kilobytes, as large as a face is when it is shown."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    pixels = cv2.resize(noise, (112, 112), interpolation=cv2.INTER_CUBIC)
    return base64.b64encode(cv2.imencode(".jpg", pixels)[1].tobytes()).decode()


def _in_process(services: Services, load: Load, key: str) -> Row:
    """Calls of the application itself, after as many that warm it up."""
    app = create_app(services, page_secret(services.settings.data_dir), warm=False)
    calls = load.calls
    for number in range(calls // 2):
        _call(app, load, key, number)
    times = []
    cpu_s = time.process_time()
    for number in range(calls):
        start_s = time.perf_counter()
        _call(app, load, key, number)
        times.append((time.perf_counter() - start_s) * 1e3)
    cpu_s = time.process_time() - cpu_s
    return {
        "load": load.name,
        "probes_a_request": load.probes,
        "cpu_ms_a_request": round(cpu_s * 1e3 / calls, 3),
        "p50_ms": round(float(np.median(times)), 3),
        "p99_ms": round(float(np.percentile(times, 99)), 3),
    }


def _call(app: Callable[..., Any], load: Load, key: str, number: int) -> None:
    text = load.bodies[number % len(load.bodies)]
    while NEW_ID in text:
        text = text.replace(NEW_ID, new_id(), 1)
    body = text.encode()
    status = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": load.path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_AUTHORIZATION": f"Bearer {key}",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
    }
    answer = app(environ, lambda line, _headers, _info=None: status.append(line))
    data = b"".join(answer)
    if status != ["200 OK"] or b'"refused"' in data:
        raise RuntimeError(f"{load.name}: {status} {data[:300]!r}")


@contextlib.contextmanager
def served(settings: Settings, *, ready: bool = True) -> Iterator[tuple[psutil.Process, int]]:
    """A real server over the data folder, `ready` or just started; its log goes to a file there."""
    command = [sys.executable, "-c", "from match_server.commands.cli import main; main()", "serve"]
    options = ["--port", "0", "--workers", str(settings.workers)]
    options += ["--threads", str(settings.threads), "--data-dir", str(settings.data_dir)]
    with (settings.data_dir / "log").open("wb") as log:
        server = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=log)
    try:
        line = server.stdout.readline().decode() if server.stdout else ""
        result = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if result is None:
            raise RuntimeError(f"the server did not start: {line!r}")
        if ready:
            _wait_until_ready(int(result[1]))
        yield psutil.Process(server.pid), int(result[1])
    finally:
        server.terminate()
        server.wait(30)
        if server.stdout:
            server.stdout.close()


def _wait_until_ready(port: int) -> None:
    """The galleries are loaded when /readyz says so."""
    ready = lambda: requests.get(f"http://127.0.0.1:{port}/readyz", timeout=60).status_code == 200  # noqa: E731
    wait_until(ready, "the server is ready", _LOAD_S, poll_s=0.1)


def _job(load: Load, key: str, port: int, clients: int, seconds: float) -> Job:
    return Job("127.0.0.1", port, load.path, key, load.bodies, clients, seconds)


def _measured(server: psutil.Process, load: Load, job: Job) -> Row:
    """One row: the clients' figures, and the CPU time of the server and its workers."""
    before_s = _cpu_s(server)
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.load"],
        input=json.dumps(asdict(job)),
        check=True,
        capture_output=True,
        text=True,
        timeout=job.seconds + 60,
    )
    cpu_s = _cpu_s(server) - before_s
    figures = json.loads(done.stdout)
    times = figures["latencies_ms"]
    if not times:
        raise RuntimeError(f"{load.name}: no answer within {job.seconds} s; give more --seconds")
    share = job.seconds / (job.seconds + job.warm_up_s)  # of the CPU time, without the warm-up
    return {
        "load": load.name,
        "clients": job.clients,
        "requests_per_s": round(len(times) / figures["seconds"], 1),
        "probes_per_s": round(load.probes * len(times) / figures["seconds"], 1),
        "p50_ms": round(float(np.median(times)), 2),
        "p99_ms": round(float(np.percentile(times, 99)), 2),
        "server_cpu_ms_a_request": round(cpu_s * share * 1e3 / len(times), 2),
        "failed": figures["failed"],
    }


def _cpu_s(server: psutil.Process) -> float:
    times = [process.cpu_times() for process in (server, *server.children())]
    return sum(one.user + one.system for one in times)


if __name__ == "__main__":
    main()
