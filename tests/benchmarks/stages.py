"""Each model alone and each stage around it: what does our own code add to the model's time?"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from models.face_models import FaceModels, open_models
from models.onnx_session import Session
from models.packs.store import require
from models.types import BgrImage, Detections
from tests.benchmarks.films import film_frames
from tests.benchmarks.tables import Row, interleaved, median, p95, print_table

_FRAME_WITH_THREE = 220


def bench_stages(work: Path, repetitions: int) -> list[Row]:
    """Bare model runs and whole stages, interleaved, on one 1280×720 frame with three faces."""
    models = open_models("compact")
    frame = film_frames(work)[_FRAME_WITH_THREE]
    detections = models.detect(frame)
    rows = []
    for stage, batch, call in _stages(models, frame, detections):
        bare = _bare_run(stage, batch) if batch else None
        calls = {"stage": call} | ({"model": bare} if bare else {})
        times = interleaved(calls, repetitions=repetitions)
        model_ms = median(times["model"]) if bare else None
        rows.append(
            {
                "stage": f"{stage} ({len(detections)} faces)"
                if stage != "detector"
                else "detector",
                "ratio": round(median(times["stage"]) / model_ms, 2) if model_ms else None,
                "stage_ms": median(times["stage"]),
                "stage_p95_ms": p95(times["stage"]),
                "model_ms": model_ms,
                "model_p95_ms": p95(times["model"]) if bare else None,
            }
        )
    print_table("Stages at 1280×720, one thread: the stage, and the model runs that it needs", rows)
    return rows


def _stages(
    models: FaceModels, frame: BgrImage, detections: Detections
) -> list[tuple[str, int, Callable[[], object]]]:
    """Name (the model's role), faces a run, and the call."""
    shapes = models.locate(frame, detections)
    chips = models.align(frame, shapes.points5)
    faces = len(detections)
    return [
        ("detector", 1, lambda: models.detect(frame)),
        ("landmarks", faces, lambda: models.locate(frame, detections)),
        ("align", 0, lambda: models.align(frame, shapes.points5)),
        ("assess", 0, lambda: models.assess(frame, detections, shapes, chips=chips)),
        ("pose", faces, lambda: models.head_poses(frame, detections.boxes)),
        ("liveness", faces, lambda: models.liveness(frame, detections.boxes)),
        ("embedder", faces, lambda: models.embed(chips)),
    ]


def _bare_run(role: str, batch: int) -> Callable[[], object]:
    """The model of that role on noise of its input's shape, nothing around it."""
    pack = require("compact")
    file = next(file for file in pack.pack.files if file.role == role)
    if file.input is None:
        raise ValueError(f"{file.name} declares no input")
    width, height = file.input.size
    depth = 1 if file.input.colour == "gray" else 3
    shape = (batch, depth, height, width)
    noise = np.random.default_rng(0).normal(0, 0.5, shape).astype(np.float32)
    session = Session(pack.path(file))
    return lambda: session.run_each(noise)
