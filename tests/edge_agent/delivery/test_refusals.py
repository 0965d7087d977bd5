"""Reasons for refused faces: real pictures and real models."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.capture.camera import Frame
from edge_agent.config.settings import LivenessSettings
from edge_agent.vision.pipeline import Pipeline, PipelineSettings
from edge_agent.vision.recognition_ledger import Ledger, plainly
from models.face_models import FaceModels, open_models
from models.images.decoding import read_picture
from models.samples import sample_path
from tests.support.fake_faces import Sink
from tests.support.films import FPS, Actor, Picture, compose, shrunk

pytestmark = pytest.mark.models

SIZE = (640, 360)
TALL = 300  # pixels of a cut-out, whose face is 1 / 2.4 of it
Change = Callable[[Picture], Picture]


@pytest.fixture(scope="module")
def models() -> FaceModels:
    return open_models("compact")


def portrait(models: FaceModels, name: str) -> Picture:
    """Returns the sample's face with its whole picture, `TALL` pixels high."""
    picture = read_picture(sample_path(name).read_bytes())
    x1, y1, x2, y2 = models.detect(picture).boxes[0]
    half = 1.2 * (x2 - x1)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    part = picture[round(max(0, y - half)) : round(y + half), round(max(0, x - half)) :]
    return shrunk(part[:, : round(2 * half)], TALL)


def passage(
    face: Picture, width: float, frames: int, light: float = 1.0, poor: int = 0
) -> Iterator[Frame]:
    """Returns frames of a moving person; the first `poor` frames are too blurred."""
    start = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    for index in range(frames):
        time_s = index / FPS
        shown = cv2.GaussianBlur(face, (0, 0), 6).astype(np.uint8) if index < poor else face
        actor = Actor(shown, lambda at_s: (320 + 3 * np.sin(2 * at_s), 180.0, 2.4 * width))
        picture = (compose([actor], time_s, SIZE) * light).astype(np.uint8)
        yield Frame(picture, start + timedelta(seconds=time_s), time_s, index, "door")


def tilted(face: Picture) -> Picture:
    height, width = face.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 55, 1)
    turned = cv2.warpAffine(face, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return turned.astype(np.uint8)


def blurred(face: Picture) -> Picture:
    return cv2.GaussianBlur(face, (0, 0), 6).astype(np.uint8)


def covered(face: Picture) -> Picture:
    """Draws dark glasses and a mask."""
    hidden = face.copy()
    middle, unit = face.shape[1] // 2, TALL / 2.4
    left, right = round(middle - 0.55 * unit), round(middle + 0.55 * unit)
    y = TALL / 2
    hidden[round(y - 0.32 * unit) : round(y + 0.1 * unit), left:right] = 40
    hidden[round(y + 0.25 * unit) : round(y + 0.75 * unit), left:right] = (150, 120, 90)
    return hidden


def as_it_is(face: Picture) -> Picture:
    return face


REFUSE = PipelineSettings(liveness=LivenessSettings(policy="refuse"))


@pytest.mark.parametrize(
    ("name", "change", "width", "light", "settings", "reason", "plain"),
    [
        ("obama.jpg", as_it_is, 30, 1.0, None, "interocular", "too small"),
        ("obama2.jpg", as_it_is, 90, 0.1, None, "brightness", "too dark or too bright"),
        ("obama.jpg", tilted, 90, 1.0, None, "roll", "turned away"),
        ("obama2.jpg", blurred, 90, 1.0, None, "sharpness", "blurred"),
        ("biden.jpg", covered, 90, 1.0, None, "occlusion_total", "covered"),
        ("obama2.jpg", as_it_is, 60, 1.0, REFUSE, "liveness", "not live"),
    ],
)
def test_a_refused_track_lands_in_the_ledger_under_its_main_reason(
    tmp_path: Path,
    models: FaceModels,
    name: str,
    change: Change,
    width: float,
    light: float,
    settings: PipelineSettings | None,
    reason: str,
    plain: str,
) -> None:
    ledger, sink = Ledger(tmp_path / "ledger.db"), Sink()
    pipeline = Pipeline(models, sink, settings, ledger=ledger)
    for frame in passage(change(portrait(models, name)), width, 30, light):
        pipeline.step(frame)
    pipeline.finish()
    assert sink.probes == []
    (day,) = ledger.days()
    assert (day.tracks, day.with_probe, dict(day.reasons)) == (1, 0, {reason: 1})
    assert plainly([day])[0].reasons == {plain: 1}
    ledger.close()


@pytest.mark.parametrize("settings", [None, REFUSE], ids=["liveness reported", "liveness refuses"])
def test_one_usable_moment_of_a_track_that_was_blurred_makes_it_recognised(
    tmp_path: Path, models: FaceModels, settings: PipelineSettings | None
) -> None:
    """The gate decides on a track, not on a frame."""
    ledger, sink = Ledger(tmp_path / "ledger.db"), Sink()
    pipeline = Pipeline(models, sink, settings, ledger=ledger)
    for frame in passage(portrait(models, "biden.jpg"), 90, 40, poor=25):
        pipeline.step(frame)
    pipeline.finish()
    assert len(sink.probes) == 1
    (day,) = ledger.days()
    assert (day.tracks, day.with_probe, dict(day.reasons)) == (1, 1, {})
    ledger.close()
