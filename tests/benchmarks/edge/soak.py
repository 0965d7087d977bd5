"""Memory over hours: a real agent with two cameras that never stop, its broker and its server."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import psutil
import requests

from demo.enrollment import enroll_all
from demo.processes import BIN, broker, create_key, find_broker, free_port, running, server
from models.types import BgrImage
from tests.benchmarks.edge.people import Portrait
from tests.benchmarks.edge.scenes import FPS, film
from tests.benchmarks.tables import Row, print_table
from tests.support.webcam import Webcam

_SIZE = (1280, 720)
_SAMPLE_S = 5.0
_SETTLING = 1 / 12  # of the time: models, buffers and caches fill with the first films
_JPEG_QUALITY = 80


@dataclass(slots=True)
class _Watched:
    """A process, and its resident memory every `_SAMPLE_S` seconds."""

    name: str
    process: psutil.Process
    mib: list[float] = field(default_factory=list)

    @property
    def family(self) -> list[psutil.Process]:
        """The process and its workers."""
        return [self.process, *self.process.children(recursive=True)]

    def sample(self) -> None:
        self.mib.append(sum(one.memory_info().rss for one in self.family) / 2**20)

    def row(self, minutes: float) -> Row:
        settled = np.array(self.mib[int(len(self.mib) * _SETTLING) :])
        tenth = max(1, len(settled) // 10)
        first, last = float(settled[:tenth].mean()), float(settled[-tenth:].mean())
        slope = float(np.polyfit(np.arange(len(settled)), settled, 1)[0]) * len(settled)
        times = [one.cpu_times() for one in self.family]
        spent_s = sum(one.user + one.system for one in times)
        return {
            "process": self.name,
            "growth_mib": round(last - first, 2),
            "fitted_growth_mib": round(slope, 2),
            "first_mib": round(first, 1),
            "last_mib": round(last, 1),
            "peak_mib": round(max(self.mib), 1),
            "minutes": round(minutes, 1),
            "share_of_a_core": round(spent_s / (minutes * 60), 3),
            "threads": sum(one.num_threads() for one in self.family),
            "files": sum(one.num_fds() for one in self.family),
        }


def soak(work: Path, portraits: list[Portrait], minutes: float) -> list[Row]:
    """Resident memory of agent, server and ingest over `minutes` of real time.

    Both cameras show four scenes at 1280×720 again and again, at the rate of a camera; probes go
    through a broker where one is installed, with the server over HTTP behind it.
    """
    films = [
        film(work, scene, _SIZE, portraits)
        for scene in ("three walking", "empty", "ten in a crowd", "one still")
    ]
    pictures = [_jpeg(frame) for path in films for frame in _frames(path)]
    webcam = Webcam(pictures=pictures, fps=FPS)
    try:
        with (
            TemporaryDirectory() as folder,
            _processes(Path(folder), webcam.url) as (
                watched,
                url,
                key,
            ),
        ):
            began_s = time.monotonic()
            while (lived_s := time.monotonic() - began_s) < minutes * 60:
                time.sleep(_SAMPLE_S)
                for one in watched:
                    one.sample()
            rows = [one.row(lived_s / 60) for one in watched]
            box = requests.get(
                f"{url}/v1/devices/soak", headers={"Authorization": f"Bearer {key}"}, timeout=30
            ).json()
            events = requests.get(
                f"{url}/v1/events?size=1", headers={"Authorization": f"Bearer {key}"}, timeout=30
            ).json()
    finally:
        webcam.close()
    print_table("Memory over a soak: two cameras at 1280×720, four scenes over and over", rows)
    print_table("What the box said at the end", [_account(box, events)])
    return rows


def _account(box: dict, events: dict) -> Row:  # type: ignore[type-arg]
    health = box["health"]
    return {
        "frames": sum(one["frames"] for one in health["cameras"]),
        "fps": [one["fps"] for one in health["cameras"]],
        "waiting": health["waiting"],
        "dropped": health["dropped"],
        "events": events["total"],
    }


@contextmanager
def _processes(folder: Path, camera: str) -> Iterator[tuple[list[_Watched], str, str]]:
    """Broker, server, ingest and agent; yields the processes, the server's URL and a key."""
    data = folder / "data"
    with ExitStack() as stack:
        url = stack.enter_context(server(folder, data, free_port()))
        admin = create_key(data, "admin")
        list(enroll_all(url, admin))
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {admin}"
        made = session.post(f"{url}/v1/devices", json={"name": "soak"}, timeout=30)
        made.raise_for_status()
        (folder / "server.key").write_text(made.json()["key"])
        transports = f'[server]\nurl = "{url}"\nkey_file = "{folder}/server.key"\n'
        watched = [_Watched("server", _child("serve", folder))]
        program = find_broker()
        if program is not None:
            mqtt = stack.enter_context(broker(folder, program))
            transports += f'[broker]\nurl = "{mqtt}"\n'
            command = [str(BIN / "match-server"), "ingest", "--broker", mqtt]
            command += ["--data-dir", str(data)]
            ingest = stack.enter_context(running(command, folder / "ingest.log"))
            watched.append(_Watched("ingest", psutil.Process(ingest.pid)))
        config = folder / "agent.toml"
        config.write_text(
            f'device = "soak"\nstate_dir = "{folder}/state"\n{transports}'
            + "".join(
                f'[[cameras]]\nname = "{name}"\nsource = "{camera}"\n' for name in ("hall", "gate")
            )
        )
        command = [str(BIN / "edge-agent"), "run", "--config", str(config)]
        agent = stack.enter_context(running(command, folder / "agent.log"))
        watched.insert(0, _Watched("agent", psutil.Process(agent.pid)))
        yield watched, url, admin


def _child(word: str, folder: Path) -> psutil.Process:
    """The child process whose command line holds `word` and `folder`."""
    for one in psutil.Process().children():
        line = one.cmdline()
        if word in line and any(str(folder) in part for part in line):
            return one
    raise LookupError(f"no process of ours runs {word!r}")


def _frames(path: Path) -> Iterator[BgrImage]:
    capture = cv2.VideoCapture(str(path))
    while True:
        read, frame = capture.read()
        if not read:
            capture.release()
            return
        yield frame  # type: ignore[misc]


def _jpeg(frame: BgrImage) -> bytes:
    return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
