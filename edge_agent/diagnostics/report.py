"""What the agent has done, for people and for programs."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from edge_agent.agent import Agent
from edge_agent.vision.pipeline import MODEL_STAGES
from edge_agent.vision.timing import StageTime, StageTimes


def summary(agent: Agent, transport: str | None) -> dict[str, Any]:
    """Counts and times of a run, ready to be written as JSON."""
    cameras = [camera.report() for camera in agent.cameras]
    pipelines = [camera.pipeline for camera in agent.cameras]
    frames = sum(camera.frames for camera in cameras)
    seconds = max((camera.seconds for camera in cameras), default=0.0)
    unidentified: Counter[str] = Counter()
    for pipeline in pipelines:
        unidentified.update(pipeline.counts.unidentified)
    outbox = agent.outbox.counts()
    times = merged([pipeline.times for pipeline in pipelines])
    return {
        "frames": frames,
        "dropped_frames": sum(camera.dropped for camera in cameras),
        "unreadable_frames": sum(camera.capture.unreadable for camera in agent.cameras),
        "seconds": round(seconds, 3),
        "fps": round(frames / seconds, 1) if seconds else 0.0,
        "tracks": sum(pipeline.counts.tracks for pipeline in pipelines),
        "embeddings": sum(pipeline.counts.embeddings for pipeline in pipelines),
        "unidentified": dict(unidentified),
        "probes": {
            "made": sum(pipeline.counts.probes for pipeline in pipelines),
            "put": outbox.put,
            "acknowledged": outbox.acknowledged,
            "refused": outbox.refused,
            "dropped": outbox.dropped,
            "waiting": outbox.waiting + outbox.held,
        },
        "failed": {camera.name: camera.failed for camera in cameras if camera.failed},
        "transport": transport,
        "complaint": None if agent.delivery is None else agent.delivery.complaint,
        "resident_mib": resident_mib(),
        "frame_per_model_time": overhead(times),
        "stage_ms": {
            stage: {"median": one.median, "p95": one.p95, "mean": one.mean, "count": one.count}
            for stage, one in times.items()
        },
    }


def merged(times: list[StageTimes]) -> dict[str, StageTime]:
    """The stages of several pipelines as if one had run them."""
    whole = StageTimes()
    for one in times:
        whole.absorb(one)
    return whole.summary()


def overhead(times: dict[str, StageTime]) -> float | None:
    """What frames cost, over what the model calls within them cost; 1 would be no overhead."""
    if "frame" not in times:
        return None
    models_ms = sum(
        times[stage].mean * times[stage].count for stage in MODEL_STAGES if stage in times
    )
    return round(times["frame"].mean * times["frame"].count / models_ms, 3)


def resident_mib() -> float | None:
    """This process's resident memory, in MiB; None where the system does not say it."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
