"""`./dev bench box`: what a gallery on the box costs, in time and in memory, on one core.

A `match-server serve` on loopback with N random unit vectors, a person each. The box is a process
of its own on one core: it receives everything, is restarted from its encrypted store, and
decides about probes of which half are noisy copies of what is enrolled.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import psutil

from shared.malloc_trim import find_trim
from shared.wire.template import Template
from tests.benchmarks.machine import machine_facts, pin_to_single_core
from tests.benchmarks.tables import Row, median, milliseconds, p95, print_facts, print_table
from tests.support.waiting import wait_until

_PROBES = 400
_WAIT_S = 600


@click.command()
@click.option("--n", default=100_000, show_default=True, help="Enrolled templates, a person each.")
@click.option("--as-box", hidden=True, type=click.Path(path_type=Path), help="A box's settings.")
def main(n: int, as_box: Path | None) -> None:
    """First synchronisation, start, memory and decisions of a gallery on a box."""
    if as_box is not None:
        print(json.dumps(_box(json.loads(as_box.read_text()))))
        return
    facts = {**machine_facts(), "templates": n}
    print_facts(facts)
    with tempfile.TemporaryDirectory() as folder:
        print_table("A gallery on the box, one core", _measure(Path(folder), n))


def _measure(folder: Path, n: int) -> list[Row]:
    from match_server.container import build_services
    from match_server.process.bootstrap import prepare
    from match_server.schemas.feed import GalleriesPut, Granted
    from match_server.schemas.keys import KeyCreate
    from match_server.settings import Settings
    from tests.benchmarks.server import enrolled, served

    settings = Settings(data_dir=folder / "server", port=0)
    prepare(settings)
    services = build_services(settings)
    try:
        probes = enrolled(services, n, _PROBES)
        everything = [Granted(collection=settings.default_collection)]
        services.followers.put("box", GalleriesPut(galleries=everything))
        new_key = KeyCreate(role="device", name="box", device="box")
        key, model_id = services.keys.create(new_key).key, services.faces.model_id
    finally:
        services.close()
    np.save(folder / "probes.npy", probes)
    with served(settings) as (_, port):
        plan = {
            "url": f"http://127.0.0.1:{port}",
            "state_dir": str(folder / "box"),
            "probes": str(folder / "probes.npy"),
            "model_id": model_id,
            "n": n,
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        rows: list[Row] = [_as_box(folder, key, "the first time")]
        rows.append(_as_box(folder, key, "from its disk"))
    rows.append(_as_box(folder, key, "without a server"))
    size = sum(file.stat().st_size for file in (folder / "box").iterdir())
    print(f"{size / 2**20:.0f} MiB on the box's disk")
    return rows


def _as_box(folder: Path, key: str, title: str) -> Row:
    command = [sys.executable, "-m", "tests.benchmarks.box", "--as-box", folder / "plan.json"]
    environment = {**os.environ, "MUSTER_SERVER_KEY": key, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    row: Row = {"start": title, **json.loads(done.stdout)}
    return row


def _box(plan: dict[str, object]) -> Row:
    """What one start of a box costs; everything is counted that a box without it would not have."""
    from edge_agent.config.loading import settings_of

    pin_to_single_core()
    trim = find_trim()
    before = _resident_mib()
    from edge_agent.gallery.manager import Galleries

    settings = settings_of(
        {
            "device": "box",
            "state_dir": plan["state_dir"],
            "cameras": [{"name": "door", "source": "none"}],
            "gallery": {"mode": "always"},
            "server": {"url": plan["url"]},
        }
    )
    began_s = time.perf_counter()
    galleries = Galleries(settings, str(plan["model_id"]))
    gallery = galleries.followers[0].gallery
    galleries.start()
    wait_until(
        lambda: gallery.unusable() is None,
        "the gallery is usable",
        _WAIT_S,
        poll_s=0.01,
        details=lambda: str(gallery.unusable()),
    )
    ready_s = time.perf_counter() - began_s
    if len(gallery) != plan["n"]:
        raise RuntimeError(f"{len(gallery)} templates are held")
    vectors = np.load(str(plan["probes"]))
    probes = [Template(str(plan["model_id"]), vector) for vector in vectors]
    decisions = [result.decision for probe in probes if (result := gallery.decide(probe))]
    if decisions != ["identified", "unknown"] * (len(probes) // 2):
        raise RuntimeError("not everybody was decided about rightly")
    times = [milliseconds(lambda p=p: gallery.decide(p), repetitions=1, warm_up=0) for p in probes]
    mated, strangers = [one[0] for one in times[0::2]], [one[0] for one in times[1::2]]
    peak = _resident_mib()
    gc.collect()
    trim()
    return {
        "ready_s": round(ready_s, 2),
        "mated_ms": median(mated),
        "mated_p95": p95(mated),
        "stranger_ms": median(strangers),
        "stranger_p95": p95(strangers),
        "added_MiB": round(_resident_mib() - before, 1),
        "before_trim": round(peak - before, 1),
    }


def _resident_mib() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


if __name__ == "__main__":
    main()
