"""The agent as a process on one core: frames a second, memory, and what a frame costs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from demo.cast import SAMPLE_VIDEO
from demo.film import lobby_film
from models.samples import sample_path
from tests.benchmarks.tables import Row, print_table

TARGET_RATIO, TARGET_FPS, TARGET_MIB = 1.25, 25, 220


def bench_pipeline(work: Path, repetitions: int) -> list[Row]:
    """`edge-agent once` on both films; decoding, tracking and thumbnails included."""
    films = {
        "sample video 176×144, 1 face": sample_path(SAMPLE_VIDEO),
        "lobby 1280×720, up to 3 faces": lobby_film(work),
    }
    rows: list[Row] = []
    for name, film in films.items():
        summaries = sorted((_watch(film) for _ in range(repetitions)), key=lambda one: one["fps"])
        middle = summaries[len(summaries) // 2]
        stages = middle["stage_ms"]
        rows.append(
            {
                "film": name,
                "frame_per_model_time": middle["frame_per_model_time"],
                "fps_median": middle["fps"],
                "fps_min": summaries[0]["fps"],
                "frame_ms_median": stages["frame"]["median"],
                "frame_ms_p95": stages["frame"]["p95"],
                "frames": middle["frames"],
                "tracks": middle["tracks"],
                "embeddings": middle["embeddings"],
                "resident_mib": max(one["resident_mib"] for one in summaries),
            }
        )
    print_table("The agent on one core (targets: ratio ≤ 1.25, ≥ 25 fps, ≤ 220 MiB)", rows)
    print_table("Stages of the lobby film, ms", _stage_rows(middle))
    return rows


def _watch(film: Path) -> dict[str, Any]:
    program = Path(sys.executable).parent / "edge-agent"
    command = [str(program), "once", str(film), "--json"]
    done = subprocess.run(command, check=True, capture_output=True)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def _stage_rows(summary: dict[str, Any]) -> list[Row]:
    return [{"stage": stage, **times} for stage, times in summary["stage_ms"].items()]
