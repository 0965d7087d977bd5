"""`./dev bench enrollment`: vectors in bulk, what they take on the disk, and how soon they serve.

A file of N random unit vectors, a person for every ten, goes in by `match-server import` and again,
into another collection, over HTTP. Then the server is restarted: until its first answer, which
must be the right one.
"""

import base64
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import psutil
import requests
from numpy.typing import NDArray

from match_server.container import build_services
from match_server.process.bootstrap import prepare
from match_server.schemas.collections import CollectionCreate
from match_server.schemas.keys import KeyCreate
from match_server.settings import Settings
from tests.benchmarks.machine import machine_facts
from tests.benchmarks.server.serving import cpu_s, served
from tests.benchmarks.tables import Row, print_facts, print_table, write_json

_CHUNK = 5_000
_LINES = 100
_OF_SAME_PERSON = 10


@click.command()
@click.option("--n", default=100_000, show_default=True, help="Vectors by the command.")
@click.option("--http", default=50_000, show_default=True, help="Vectors over HTTP.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures.")
def main(n: int, http: int, report: Path | None) -> None:
    """Vectors a second in bulk; bytes a template; time to the first right answer."""
    facts = {**machine_facts(), "templates": n}
    print_facts(facts)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder) / "data", port=0)
        prepare(settings)
        services = build_services(settings)
        services.first_start()
        services.collections.create(CollectionCreate(name="other"))
        key = services.keys.create(KeyCreate(role="admin")).key
        model_id = services.faces.model_id
        services.close()
        file = Path(folder) / "vectors.ndjson"
        probe = _write(file, n, model_id)
        rows = [_by_command(settings, file, n)]
        database = settings.data_dir / "muster.db"
        size = database.stat().st_size
        with served(settings) as (server, port):
            rows.append(_over_http(server, port, key, file, http))
        print_table("Vectors in bulk", rows)
        started = [_start(settings, key, probe, model_id) for _ in range(3)]
    print_table("Start, until the first right answer", started)
    stored = {"database_bytes_per_template": round(size / n)}
    print_table("On the disk, indexes and persons included", [stored])
    if report is not None:
        write_json(report, facts, {"bulk": rows, "start": started, "disk": [stored]})


def _write(file: Path, n: int, model_id: str) -> NDArray[np.float16]:
    """Writes the file of vectors; returns the last vector."""
    random = np.random.default_rng(0)
    with file.open("w", encoding="utf-8") as out:
        for start in range(0, n, _CHUNK):
            rows = random.standard_normal((min(_CHUNK, n - start), 512), dtype=np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            stored = rows.astype("<f2")
            for number, row in enumerate(stored, start=start):
                line = {
                    "name": f"Person {number // _OF_SAME_PERSON}",
                    "template": base64.b64encode(row.tobytes()).decode(),
                    "model_id": model_id,
                }
                out.write(json.dumps(line) + "\n")
    last: NDArray[np.float16] = stored[-1]
    return last


def _by_command(settings: Settings, file: Path, n: int) -> Row:
    command = [sys.executable, "-c", "from match_server.commands.cli import main; main()", "import"]
    started_s, used_s = time.perf_counter(), _cpu_of_children_s()
    process = subprocess.Popen(
        [*command, str(file), "--json", "--data-dir", str(settings.data_dir)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    with process:
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.2)
    took_s = time.perf_counter() - started_s
    if process.returncode != 0:
        raise RuntimeError(f"match-server import ended with {process.returncode}")
    return {
        "way": "match-server import",
        "vectors": n,
        "vectors_per_s": round(n / took_s),
        "cpu_us_a_vector": round((_cpu_of_children_s() - used_s) / n * 1e6, 1),
        "peak_mib": round(peak / 2**20),
    }


def _over_http(server: psutil.Process, port: int, key: str, file: Path, n: int) -> Row:
    """Sends all in one request and reads the results afterwards."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-ndjson"}
    started_s, used_s = time.perf_counter(), cpu_s(server)
    with file.open("rb") as lines:
        response = requests.post(
            f"http://127.0.0.1:{port}/v1/collections/other/enroll",
            data=_joined(itertools.islice(lines, n)),
            headers=headers,
            timeout=600,
        )
    accepted = response.content.count(b'"accepted"')
    took_s = time.perf_counter() - started_s
    if accepted != n:
        raise RuntimeError(f"{accepted} of {n} vectors were accepted")
    worker = max(_resident(child.pid) for child in server.children())
    return {
        "way": "HTTP, NDJSON",
        "vectors": accepted,
        "vectors_per_s": round(accepted / took_s),
        "cpu_us_a_vector": round((cpu_s(server) - used_s) / n * 1e6, 1),
        "peak_mib": round(worker / 2**20),
    }


def _joined(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Some lines together: each piece is sent by itself."""
    while some := b"".join(itertools.islice(lines, _LINES)):
        yield some


def _start(settings: Settings, key: str, probe: NDArray[np.float16], model_id: str) -> Row:
    """From the start of the process to an answer whose best candidate is the template itself."""
    vector = base64.b64encode(probe.tobytes()).decode()
    requested = {"templates": [{"vector": vector, "model_id": model_id}], "limit": 1}
    started_s = time.perf_counter()
    with served(settings, ready=False) as (server, port):
        answer = requests.post(
            f"http://127.0.0.1:{port}/v1/collections/default/search",
            json=requested,
            headers={"Authorization": f"Bearer {key}"},
            timeout=600,
        ).json()
        took_s = time.perf_counter() - started_s
        (best,) = answer["probes"][0]["candidates"]
        if best["similarity"] < 0.999:
            raise RuntimeError(f"the first answer is wrong: {best}")
        worker = max(_private(child.pid) for child in server.children())
    return {"seconds": round(took_s, 2), "worker_private_mib": round(worker / 2**20)}


def _cpu_of_children_s() -> float:
    """The processor time of the processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _private(pid: int) -> int:
    return int(psutil.Process(pid).memory_full_info().uss)


if __name__ == "__main__":
    main()
