"""Memory over hours of video: one camera that never stops, everything behind it real."""

import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np

from demo.processes import free_port
from edge_agent.capture.feed import Feed, Manner
from edge_agent.capture.sources import Source, open_source
from edge_agent.ledger import Ledger
from edge_agent.outbox import Outbox
from edge_agent.pipeline import Pipeline
from edge_agent.publishers.delivery import Delivery
from edge_agent.publishers.http import HttpTransport
from edge_agent.reports import resident_mib
from edge_agent.watching.track_changes import TrackQueue
from models.analysis import FaceModels
from models.types import BgrImage
from shared.memory import find_trim
from tests.benchmarks.edge.scenes import FPS, film
from tests.benchmarks.tables import Row, print_table

_SAMPLE_FRAMES = 250
_TRIM_S = 2.0
_ACKNOWLEDGES = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        probes = [{"probe_id": one["probe_id"], "status": "accepted"}
                  for one in body if "probe_id" in one]
        answer = json.dumps({"probes": probes}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_): pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class EndlessFilm:
    """Films one after the other, for ever; stream time goes on."""

    live, stills = False, False

    def __init__(self, films: list[Path]) -> None:
        self._films = films
        self._next = 0
        self._before_s = self._last_s = 0.0
        self._source: Source = self._open()

    def grab(self) -> float:
        time_s = self._source.grab()
        if time_s is None:
            self._source.close()
            self._before_s = self._last_s + 1 / FPS
            self._source = self._open()
            time_s = self._source.grab() or 0.0
        self._last_s = self._before_s + time_s
        return self._last_s

    def retrieve(self) -> BgrImage:
        return self._source.retrieve()

    def close(self) -> None:
        self._source.close()

    def _open(self) -> Source:
        self._next += 1
        return open_source(str(self._films[(self._next - 1) % len(self._films)]))


def soak(work: Path, models: FaceModels, portraits: list, minutes: float) -> list[Row]:  # type: ignore[type-arg]
    """Watches films for `minutes`, as fast as it can; resident memory along the way."""
    films = [
        film(work, scene, (1280, 720), portraits)
        for scene in ("three walking", "empty", "ten in a crowd", "one still")
    ]
    port = free_port()
    server = subprocess.Popen([sys.executable, "-c", _ACKNOWLEDGES, str(port)])
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = _watch(Path(folder), models, films, port, minutes)
    finally:
        server.terminate()
        server.wait()
    print_table("Memory over a soak: a film of four scenes at 1280×720, over and over", rows)
    return rows


def _watch(
    folder: Path, models: FaceModels, films: list[Path], port: int, minutes: float
) -> list[Row]:
    outbox = Outbox(folder / "outbox.db", "bench")
    ledger = Ledger(folder / "ledger.db")
    tracks = TrackQueue("bench")
    delivery = Delivery(outbox, HttpTransport(f"http://127.0.0.1:{port}", "key"), tracks)
    delivery.start()
    stop = threading.Event()
    manner = Manner(live=False, reconnect=False)
    feed = Feed("soak", partial(EndlessFilm, films), manner, stop)
    pipeline = Pipeline(models, outbox, tracks=tracks, ledger=ledger)
    began_s = trimmed_s = time.monotonic()
    trim = find_trim()
    samples: list[float] = []
    for frame in feed:
        pipeline.step(frame)
        now_s = time.monotonic()
        if now_s - trimmed_s >= _TRIM_S:
            trim()
            trimmed_s = now_s
        if frame.index % _SAMPLE_FRAMES == 0:
            samples.append(resident_mib() or 0.0)
        if now_s - began_s >= minutes * 60:
            stop.set()
    pipeline.finish()
    delivery.drained(30)
    counts = outbox.counts()
    delivery.stop(2)
    outbox.close()
    ledger.close()
    # Models and buffers come with the first film; what grows after that is a leak.
    settled = np.array(samples[len(samples) // 10 :])
    tenth = max(1, len(settled) // 10)
    hours = pipeline.counts.frames / FPS / 3600
    slope = float(np.polyfit(np.arange(len(settled)), settled, 1)[0]) * len(settled)
    return [
        {
            "growth_mib": round(float(settled[-tenth:].mean() - settled[:tenth].mean()), 2),
            "fitted_growth_mib": round(slope, 2),
            "video_hours": round(hours, 2),
            "minutes": round(minutes, 1),
            "first_mib": round(float(settled[:tenth].mean()), 1),
            "last_mib": round(float(settled[-tenth:].mean()), 1),
            "peak_mib": round(float(max(samples)), 1),
            "tracks": pipeline.counts.tracks,
            "probes": pipeline.counts.probes,
            "acknowledged": counts.acknowledged,
            "threads": threading.active_count(),
            "files": len(list(Path("/proc/self/fd").iterdir())),
        }
    ]
