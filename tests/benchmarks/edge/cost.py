"""The cost of a camera by scene: frames a second, and CPU time of a minute of video."""

import threading
import time
from functools import partial
from pathlib import Path

from edge_agent.capture.camera import Capture, ReadMode
from edge_agent.capture.source import open_source
from edge_agent.config.camera import DetectionSettings
from edge_agent.vision.pipeline import Pipeline, PipelineSettings
from models.face_models import FaceModels
from tests.benchmarks.edge.people import Portrait
from tests.benchmarks.edge.scenes import FPS, SCENES, SIZES, Person, film, people_of
from tests.benchmarks.edge.truth import Following
from tests.benchmarks.tables import Row, print_table
from tests.support.fake_faces import Sink

_EVERY_FRAME = PipelineSettings(detection=DetectionSettings(motion=False, faces="near"))


def bench_scenes(work: Path, models: FaceModels, portraits: list[Portrait]) -> list[Row]:
    """All scenes at all sizes, decoding included, with the default settings.

    `most_of_one` is the number of tracks of the person with the most (1: no track was broken up),
    `switches` how often a track went over to another person, `a_person` the embeddings for each
    person of the film.

    `ratio` is the CPU time against a search of every frame without closer looks, decoding
    included in both; `core_share` the CPU time of a minute of video against that minute.
    """
    rows: list[Row] = []
    for size in SIZES:
        for scene in SCENES:
            path = film(work, scene, size, portraits)
            people = people_of(scene, size, portraits)
            _, _, plain_s, _ = _watch(models, path, _EVERY_FRAME, people)
            pipeline, truth, cpu_s, wall_s = _watch(models, path, PipelineSettings(), people)
            counts = pipeline.counts
            video_s = counts.frames / FPS
            rows.append(
                {
                    "size": f"{size[0]}×{size[1]}",
                    "scene": scene,
                    "ratio": round(cpu_s / plain_s, 2),
                    "core_share": round(cpu_s / video_s, 3),
                    "cpu_s_a_minute": round(60 * cpu_s / video_s, 1),
                    "fps": round(counts.frames / wall_s),
                    "searched": f"{counts.searched} of {counts.frames}",
                    "people": f"{truth.followed} of {len(people)}",
                    "tracks": counts.tracks,
                    "most_of_one": truth.most_tracks,
                    "switches": truth.switches,
                    "embeddings_a_track": _ratio(counts.embeddings, counts.tracks),
                    "a_person": _ratio(counts.embeddings, len(people)),
                    "probes": counts.probes,
                }
            )
    print_table("One camera on one core, by scene (target: ≤ 3 embeddings a track)", rows)
    return rows


def _ratio(count: int, of: int) -> float | None:
    return round(count / of, 2) if of else None


def _watch(
    models: FaceModels, path: Path, settings: PipelineSettings, people: list[Person]
) -> tuple[Pipeline, Following, float, float]:
    """The pipeline after the film, the persons its tracks followed, CPU seconds and seconds."""
    truth = Following(people)
    pipeline = Pipeline(models, Sink(), settings)
    manner = ReadMode(live=False, reconnect=False)
    capture = Capture("bench", partial(open_source, str(path)), manner, threading.Event())
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for frame in capture:
        pipeline.step(frame)
        truth.see(pipeline.tracks, frame.index / FPS)
    pipeline.finish()
    return pipeline, truth, time.process_time() - cpu_s, time.perf_counter() - wall_s
