"""Accuracy of identification by the first shot, by the best shots, and by fused shots.

Each film shows one picture of a person who is enrolled with another one. The person passes a
camera: far and blurred at first, then nearer, turned, badly lit, half hidden, noisy. Every policy
gets the same frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.camera import Frame
from edge_agent.config.settings import ShotSettings
from edge_agent.vision.best_shot import ShotTuning
from edge_agent.vision.pipeline import Pipeline, PipelineSettings
from edge_agent.vision.probe import Probe
from models.face_models import FaceModels
from models.types import BgrImage
from tests.benchmarks.edge.people import Portrait
from tests.benchmarks.edge.scenes import FPS, add, grain
from tests.benchmarks.tables import Row, print_table
from tests.support.fake_faces import Sink
from tests.support.films import Actor, compose

_SIZE = (640, 360)
_SECONDS = 3.0
_THRESHOLD = 0.35
_START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

POLICIES = {
    "first shot": PipelineSettings(
        shots=ShotSettings(first_wait_s=0.0, max_probes=1, fuse=1, thumbnails=False)
    ),
    "best shot": PipelineSettings(shots=ShotSettings(fuse=1, max_probes=3, thumbnails=False)),
    "fused from 3 (default)": PipelineSettings(shots=ShotSettings(thumbnails=False)),
    "every 5th frame, fused": PipelineSettings(
        shots=ShotSettings.model_construct(  # a margin that the settings do not allow
            first_wait_s=0.0, margin=-1.0, max_probes=16, fuse=16, thumbnails=False
        ),
        tuning=ShotTuning(good_enough=0.0, again_after_s=0.2, final_margin=-1.0, max_embeddings=16),
    ),
}


@dataclass(slots=True)
class _Tally:
    tracks: int = 0
    silent: int = 0  # films without any probe
    embeddings: int = 0
    right: int = 0  # films with a probe of the right person above the threshold
    wrong: int = 0  # films with a probe of another person above the threshold
    by_last: int = 0  # films whose last probe identified the right person
    highest: float = 0.0  # similarity of the best probe to the right person, summed
    last: float = 0.0  # of the last probe, summed


def bench_accuracy(models: FaceModels, portraits: list[Portrait], takes: int = 1) -> list[Row]:
    """Identification of one track, threshold 0.35, one enrolled picture for each person."""
    enrolled = {portrait.person: portrait for portrait in reversed(portraits)}  # each one's first
    people = list(enrolled)
    gallery = np.stack([_template(models, enrolled[name]) for name in people])
    tallies = {name: _Tally() for name in POLICIES}
    shown = [one for one in portraits if one is not enrolled[one.person]]
    for number, portrait in enumerate(shown):
        for take in range(takes):
            frames = list(_passage(portrait, seed=number * takes + take))
            truth = people.index(portrait.person)
            for name, settings in POLICIES.items():
                _watch(models, frames, settings, gallery, truth, tallies[name])
    films = len(shown) * takes
    rows: list[Row] = [
        {
            "policy": name,
            "identified": round(tally.right / films, 3),
            "by_the_last_probe": round(tally.by_last / films, 3),
            "taken_for_another": tally.wrong,
            "no_probe": tally.silent,
            "films": films,
            "embeddings_a_track": round(tally.embeddings / max(1, tally.tracks), 2),
            "similarity_highest": round(tally.highest / max(1, films - tally.silent), 3),
            "similarity_last": round(tally.last / max(1, films - tally.silent), 3),
        }
        for name, tally in tallies.items()
    ]
    print_table(f"One passage, {len(people)} people enrolled with one picture each", rows)
    return rows


def _template(models: FaceModels, portrait: Portrait) -> NDArray[np.float32]:
    faces = models.analyze(portrait.image)
    best = max(faces, key=lambda face: float(face.box[2] - face.box[0]))
    if best.template is None:
        raise ValueError(f"{portrait.person} gives no template")
    return best.template.vector


def _watch(
    models: FaceModels,
    frames: list[Frame],
    settings: PipelineSettings,
    gallery: NDArray[np.float32],
    truth: int,
    tally: _Tally,
) -> None:
    sink = Sink()
    pipeline = Pipeline(models, sink, settings)
    for frame in frames:
        pipeline.step(frame)
    pipeline.finish()
    tally.tracks += pipeline.counts.tracks
    tally.embeddings += pipeline.counts.embeddings
    if not sink.probes:
        tally.silent += 1
        return
    identified = [_identified(probe, gallery) for probe in sink.probes]
    tally.right += truth in identified
    tally.wrong += any(person not in (truth, None) for person in identified)
    tally.by_last += identified[-1] == truth
    mated = [float(gallery[truth] @ probe.template.vector) for probe in sink.probes]
    tally.highest += max(mated)
    tally.last += mated[-1]


def _identified(probe: Probe, gallery: NDArray[np.float32]) -> int | None:
    likeness = gallery @ probe.template.vector
    best = int(likeness.argmax())
    return best if likeness[best] >= _THRESHOLD else None


def _passage(portrait: Portrait, seed: int) -> Iterator[Frame]:
    """A walk from the far end of a corridor to the camera, random by `seed`."""
    chance = np.random.default_rng(seed)
    near = chance.uniform(32, 60)
    far = near * chance.uniform(0.45, 0.7)
    side, pace = chance.uniform(-60, 60), chance.uniform(3, 6)
    lean, phase = chance.uniform(4, 14), chance.uniform(0, 6)
    dim = chance.uniform(0.2, 0.8)
    hidden = chance.uniform(0.2, 0.8)  # of the way: another person passes in front
    blur_at = chance.uniform(0, 1)
    tall = portrait.image.shape[0] / portrait.face_width
    hisses = [grain(_SIZE, 1000 + seed * 4 + turn, 6.0) for turn in range(4)]
    for index in range(round(_SECONDS * FPS)):
        time_s = index / FPS
        progress = time_s / _SECONDS
        face = far + (near - far) * progress
        x = _SIZE[0] / 2 + side * (1 - progress) + 0.3 * face * np.sin(1.7 * time_s + phase)
        y = _SIZE[1] / 2 + 3 * np.sin(pace * time_s)
        turned = _turned(portrait, lean * float(np.sin(pace * time_s / 2 + phase)))
        actor = Actor(
            turned, lambda _, x=x, y=y, face=face: (float(x), float(y), float(face * tall))
        )
        picture = compose([actor], time_s, _SIZE)
        light = dim + (1 - dim) * progress
        picture = _blurred(picture, 1.0 + 7.0 * abs(progress - blur_at), float(chance.uniform()))
        if abs(progress - hidden) < 0.04:
            picture[:, round(x) - 20 : round(x) + 40] = (60, 70, 80)
        lit = np.clip(picture * light, 0, 255).astype(np.uint8)
        moment = _START + timedelta(seconds=time_s)
        yield Frame(add(lit, hisses[index % 4]), moment, time_s, index, "passage")


def _turned(portrait: Portrait, degrees: float) -> BgrImage:
    height, width = portrait.image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turned = cv2.warpAffine(
        portrait.image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE
    )
    return turned.astype(np.uint8, copy=False)


def _blurred(picture: BgrImage, length: float, luck: float) -> BgrImage:
    """Motion blur of a random length up to `length` pixels."""
    reach = max(1, round(length * luck))
    if reach < 2:
        return picture
    return cv2.blur(picture, (reach, 1)).astype(np.uint8, copy=False)
