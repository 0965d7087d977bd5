"""The time from the first usable face to the probe in the outbox, and to the server's receipt."""

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from demo.processes import create_key, free_port, server
from edge_agent.config.loading import settings_of
from edge_agent.delivery.http import HttpTransport
from edge_agent.factory import build_agent
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.probe import Probe
from models.face_models import FaceModels
from shared.wire.messages import ProbeReceipt
from tests.benchmarks.edge.people import Portrait
from tests.benchmarks.edge.scenes import FPS
from tests.benchmarks.tables import Row, print_table
from tests.support.films import Actor, compose

_SIZE = (1280, 720)
_ENTRANCES = 20
_EVERY_S = 2.5  # a person comes ...
_STAY_S = 1.0  # ... and goes, so that each is a track of their own
TARGET_MS = 400


class TimedOutbox(Outbox):
    """Records when each track's first probe was stored, and when the server acknowledged it."""

    def __init__(self, path: Path, device: str) -> None:
        super().__init__(path, device)
        self.stored_s: dict[str, float] = {}  # by track, monotonic
        self.acknowledged_s: dict[str, float] = {}
        self._track_of: dict[str, str] = {}

    def put(self, probes: Sequence[Probe]) -> int:
        stored = super().put(probes)
        for probe in probes:
            self._track_of[probe.probe_id] = probe.track_id
            self.stored_s.setdefault(probe.track_id, time.monotonic())
        return stored

    def settle(self, receipts: Iterable[ProbeReceipt]) -> None:
        receipts = list(receipts)
        for receipt in receipts:
            track = self._track_of.get(receipt.probe_id, "")
            self.acknowledged_s.setdefault(track, time.monotonic())
        super().settle(receipts)


def bench_latency(work: Path, models: FaceModels, portraits: list[Portrait]) -> list[Row]:
    """A film in real time through the whole agent, and a real match-server on loopback.

    A face is usable in the first frame in which it passes the gate, computed for every frame
    beforehand. The time begins when that frame is due.
    """
    path = _film(work, portraits)
    usable_s = _first_usable(models, path)
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        data = Path(folder) / "data"
        with server(Path(folder), data, free_port()) as url:
            key = create_key(data, "device", "bench")
            outbox, began_s = _watch(models, path, Path(folder), url, key)
    stored = sorted(outbox.stored_s.values())
    first = dict(_owners(outbox, usable_s, began_s))
    rows = [
        _row("probe in the outbox", first, outbox.stored_s, began_s, len(usable_s)),
        _row("acknowledged by the server", first, outbox.acknowledged_s, began_s, len(usable_s)),
    ]
    print_table(
        f"From the first usable face, ms (target p95 ≤ {TARGET_MS}; {len(stored)} tracks)", rows
    )
    return rows


def _row(
    what: str, first: dict[str, float], when_s: dict[str, float], began_s: float, faces: int
) -> Row:
    times = [1000 * (when_s[track] - began_s - first[track]) for track in first if track in when_s]
    return {
        "until": what,
        "median_ms": round(float(np.median(times))),
        "p95_ms": round(float(np.percentile(times, 95))),
        "max_ms": round(max(times)),
        "faces": faces,
        "answered": len(times),
    }


def _owners(
    outbox: TimedOutbox, usable_s: list[float], began_s: float
) -> Iterable[tuple[str, float]]:
    """Each track with its entrance: the last usable moment before its probe."""
    taken: set[float] = set()
    for track, stored_s in sorted(outbox.stored_s.items(), key=lambda item: item[1]):
        before = [moment for moment in usable_s if moment <= stored_s - began_s]
        if before and before[-1] not in taken:
            taken.add(before[-1])
            yield track, before[-1]


def _watch(
    models: FaceModels, path: Path, folder: Path, url: str, key: str
) -> tuple[TimedOutbox, float]:
    """The outbox after the film, and the moment at which the film began."""
    settings = settings_of(
        {
            "device": "bench",
            "state_dir": folder,
            "cameras": [{"name": "door", "source": str(path), "realtime": True}],
        }
    )
    outbox = TimedOutbox(folder / "outbox.db", "bench")
    agent = build_agent(settings, models, outbox, HttpTransport(url, key))
    (camera,) = agent.cameras
    began: list[float] = []
    step = camera.pipeline.step
    camera.pipeline.step = _noting(step, began)  # type: ignore[method-assign]
    agent.run()
    if agent.delivery is not None:
        agent.delivery.drained(30)
    agent.close()
    return outbox, min(began)


def _noting(step: Callable[..., None], began: list[float]) -> Callable[..., None]:
    """Computes when the film began: no frame comes before it is due."""

    def noting(frame) -> None:  # type: ignore[no-untyped-def]
        began.append(time.monotonic() - frame.time_s)
        step(frame)

    return noting


def _first_usable(models: FaceModels, path: Path) -> list[float]:
    """The stream times at which a face passes the gate after there was none for a second."""
    capture = cv2.VideoCapture(str(path))
    times_s: list[float] = []
    last_s = -10.0
    index = 0
    while (answer := capture.read())[0]:
        image = answer[1].astype(np.uint8, copy=False)
        time_s = index / FPS
        index += 1
        detections = models.detect(image)
        if len(detections):
            qualities = models.assess(image, detections, models.locate(image, detections))
            if any(quality.passed for quality in qualities):
                if time_s - last_s > 1.0:
                    times_s.append(time_s)
                last_s = time_s
    capture.release()
    return times_s


def _film(work: Path, portraits: list[Portrait]) -> Path:
    path = work / "entrances.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, _SIZE)
    for index in range(round(_ENTRANCES * _EVERY_S * FPS)):
        number, into_s = divmod(index / FPS, _EVERY_S)
        writer.write(compose(_who(portraits, int(number), into_s), into_s, _SIZE))
    writer.release()
    return path


def _who(portraits: list[Portrait], number: int, into_s: float) -> list[Actor]:
    if not 0.5 <= into_s < 0.5 + _STAY_S:
        return []
    portrait = portraits[number % len(portraits)]
    tall = 110 * portrait.image.shape[0] / portrait.face_width
    x = 300 + 97 * (number % 7) + 60 * into_s
    return [Actor(portrait.image, lambda _: (x, 340.0, tall))]
