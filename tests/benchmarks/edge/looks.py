"""Accuracy for tracks of several photographs: first shot, best shot, fused shots.

Each film shows three photographs of one person, one fading into the next, of a folder of labelled
pictures (MUSTER_TEST_LFW). In `enrolled` films the person is enrolled with a fourth picture, in
`strangers` not at all; in `mixed` ones the second half shows another person in the same place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.capture.camera import Frame
from edge_agent.config.settings import ShotSettings
from edge_agent.vision.pipeline import Pipeline, PipelineSettings
from edge_agent.vision.probe import Probe
from models.face_models import FaceModels
from models.types import BgrImage
from tests.benchmarks.edge.people import portrait_of
from tests.benchmarks.edge.scenes import FPS, add, grain
from tests.benchmarks.tables import Row, print_table
from tests.support.fake_faces import Sink
from tests.support.films import Actor, compose

_SIZE = (640, 360)
_SIDE = 200  # pixels of the cut-out around the face
_LOOK_S = 2.0
_FADE_S = 0.6
_THRESHOLD = 0.45  # about an FPIR of 1 % with a few hundred people enrolled
_START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
_FILMS = 20  # of each kind
_OTHERS = 200  # further enrolled people

POLICIES = {
    "first shot": ShotSettings(first_wait_s=0.0, max_probes=1, fuse=1, thumbnails=False),
    "best shot": ShotSettings(fuse=1, max_probes=3, thumbnails=False),
    "fused (default)": ShotSettings(thumbnails=False),
}


@dataclass(frozen=True, slots=True, eq=False)
class _Film:
    kind: str
    looks: list[BgrImage]
    people: set[int]  # rows of the gallery that are right


@dataclass(slots=True)
class _Tally:
    films: int = 0
    tracks: int = 0
    embeddings: int = 0
    probes: int = 0
    by_any: int = 0
    by_last: int = 0  # right by the last probe of each track
    wrong: int = 0
    first_ms: float = 0.0


def bench_looks(models: FaceModels, folder: Path) -> list[Row]:
    """Identification of tracks with three photographs; one enrolled picture for each person."""
    people = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    several = [path for path in people if len(list(path.iterdir())) >= 4]
    chosen = several[:: max(1, len(several) // (2 * _FILMS))][: 2 * _FILMS]
    known, strangers = chosen[::2], chosen[1::2]
    singles = [path for path in people if len(list(path.iterdir())) == 1][:_OTHERS]
    gallery = np.stack([_template(models, sorted(one.iterdir())[0]) for one in [*known, *singles]])
    films = list(_films(models, known, strangers))
    rows: list[Row] = []
    for name, settings in POLICIES.items():
        for kind in ("enrolled", "strangers", "mixed"):
            tally = _Tally()
            for film in films:
                if film.kind == kind:
                    _watch(models, film, settings, gallery, tally)
            rows.append(_row(name, kind, tally))
    print_table(f"Three looks a track, {len(gallery)} people enrolled", rows)
    return rows


def _row(name: str, kind: str, tally: _Tally) -> Row:
    return {
        "policy": name,
        "films": f"{tally.films} {kind}",
        "named_by_any_probe": tally.by_any,
        "by_the_last": tally.by_last,
        "taken_for_another": tally.wrong,
        "tracks": tally.tracks,
        "probes_a_track": round(tally.probes / max(1, tally.tracks), 2),
        "embeddings_a_track": round(tally.embeddings / max(1, tally.tracks), 2),
        "first_probe_ms": round(tally.first_ms / max(1, tally.films)),
    }


def _films(models: FaceModels, known: list[Path], strangers: list[Path]) -> Iterator[_Film]:
    for number, (person, stranger) in enumerate(zip(known, strangers, strict=False)):
        mine = _looks(models, person)
        others = _looks(models, stranger)
        if len(mine) < 3 or len(others) < 3:
            continue
        yield _Film("enrolled", mine, {number})
        yield _Film("strangers", others, set())
        yield _Film("mixed", [mine[0], mine[1], others[0], others[1]], {number})


def _looks(models: FaceModels, person: Path) -> list[BgrImage]:
    """Three pictures of a person, but not the first, as cut-outs of one size."""
    looks = []
    for file in sorted(person.iterdir())[1:4]:
        portrait = portrait_of(models, person.name, file)
        if portrait is not None:
            looks.append(cv2.resize(portrait.image, (_SIDE, _SIDE)).astype(np.uint8))
    return looks


def _template(models: FaceModels, file: Path) -> NDArray[np.float32]:
    picture = cv2.imread(str(file))
    if picture is None:
        raise ValueError(f"{file} is no picture")
    faces = models.analyze(picture.astype(np.uint8))
    best = max(faces, key=lambda face: float(face.box[2] - face.box[0]))
    if best.template is None:
        raise ValueError(f"{file} gives no template")
    return best.template.vector


def _frames(film: _Film) -> Iterator[Frame]:
    hisses = [grain(_SIZE, seed, 4.0) for seed in range(4)]
    for index in range(round(len(film.looks) * _LOOK_S * FPS)):
        time_s = index / FPS
        place = min(int(time_s / _LOOK_S), len(film.looks) - 1)
        picture = film.looks[place]
        left_s = (place + 1) * _LOOK_S - time_s
        if left_s < _FADE_S and place + 1 < len(film.looks):
            share = 1 - left_s / _FADE_S
            picture = cv2.addWeighted(picture, 1 - share, film.looks[place + 1], share, 0).astype(
                np.uint8
            )
        x = _SIZE[0] / 2 + 12 * np.sin(1.3 * time_s)
        y = _SIZE[1] / 2 + 4 * np.sin(1.9 * time_s)
        actor = Actor(picture, lambda _, x=x, y=y: (float(x), float(y), float(_SIDE)))
        moment = _START + timedelta(seconds=time_s)
        scene = compose([actor], time_s, _SIZE)
        yield Frame(add(scene, hisses[index % 4]), moment, time_s, index, "looks")


def _watch(
    models: FaceModels,
    film: _Film,
    settings: ShotSettings,
    gallery: NDArray[np.float32],
    tally: _Tally,
) -> None:
    sink = Sink()
    pipeline = Pipeline(models, sink, PipelineSettings(shots=settings))
    for frame in _frames(film):
        pipeline.step(frame)
    pipeline.finish()
    tally.films += 1
    tally.tracks += pipeline.counts.tracks
    tally.embeddings += pipeline.counts.embeddings
    tally.probes += len(sink.probes)
    if not sink.probes:
        return
    tally.first_ms += (sink.probes[0].captured_at - _START) / timedelta(milliseconds=1)
    named = [_named(probe, gallery) for probe in sink.probes]
    last = {probe.track_id: name for probe, name in zip(sink.probes, named, strict=True)}
    tally.by_any += bool(film.people & set(named))
    tally.by_last += bool(film.people & set(last.values()))
    tally.wrong += any(name is not None and name not in film.people for name in named)


def _named(probe: Probe, gallery: NDArray[np.float32]) -> int | None:
    likeness = gallery @ probe.template.vector
    best = int(likeness.argmax())
    return best if likeness[best] >= _THRESHOLD else None
