"""What a camera costs by what is before it: frames a second, and CPU time of a minute of video."""

import threading
import time
from functools import partial
from pathlib import Path

from edge_agent.capture.feed import Feed, Manner
from edge_agent.capture.sources import open_source
from edge_agent.pipeline import Pipeline, PipelineRules
from edge_agent.watching.detection import DetectionRules
from models.analysis import FaceModels
from tests.benchmarks.edge.people import Portrait
from tests.benchmarks.edge.scenes import FPS, SCENES, SIZES, film
from tests.benchmarks.tables import Row, print_table
from tests.edge_agent.fake_faces import Sink

_EVERY_FRAME = PipelineRules(detection=DetectionRules(motion=False, reach="near"))


def bench_scenes(work: Path, models: FaceModels, portraits: list[Portrait]) -> list[Row]:
    """All scenes at all sizes, decoding included, with the default rules.

    `ratio` is the CPU time against a search of every frame without closer looks, decoding
    included in both; `core_share` the CPU time of a minute of video against that minute.
    """
    rows: list[Row] = []
    for size in SIZES:
        for scene in SCENES:
            path = film(work, scene, size, portraits)
            _, plain_s, _ = _watch(models, path, _EVERY_FRAME)
            pipeline, cpu_s, wall_s = _watch(models, path, PipelineRules())
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
                    "tracks": counts.tracks,
                    "embeddings_a_track": (
                        round(counts.embeddings / counts.tracks, 2) if counts.tracks else None
                    ),
                    "probes": counts.probes,
                }
            )
    print_table("One camera on one core, by scene (target: ≤ 3 embeddings a track)", rows)
    return rows


def _watch(models: FaceModels, path: Path, rules: PipelineRules) -> tuple[Pipeline, float, float]:
    """The pipeline after the film, CPU seconds and seconds."""
    pipeline = Pipeline(models, Sink(), rules)
    manner = Manner(live=False, reconnect=False)
    feed = Feed("bench", partial(open_source, str(path)), manner, threading.Event())
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for frame in feed:
        pipeline.step(frame)
    pipeline.finish()
    return pipeline, time.process_time() - cpu_s, time.perf_counter() - wall_s
