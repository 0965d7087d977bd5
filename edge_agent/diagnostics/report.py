"""The report of one run of the agent."""

import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_agent.agent import Agent
from edge_agent.diagnostics.stage_times import StageTimes


def summary(agent: Agent, transport: str | None, times: StageTimes) -> dict[str, Any]:
    """Returns counts and times of a run, ready to be written as JSON."""
    cameras = [camera.report() for camera in agent.cameras]
    pipelines = [camera.pipeline for camera in agent.cameras]
    frames = sum(camera.frames for camera in cameras)
    seconds = max((camera.seconds for camera in cameras), default=0.0)
    unidentified: Counter[str] = Counter()
    for pipeline in pipelines:
        unidentified.update(pipeline.counts.unidentified)
    outbox = agent.outbox.counts()
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
        "frame_per_model_time": times.overhead(),
        "stage_ms": {stage: asdict(stage_time) for stage, stage_time in times.summary().items()},
    }


def resident_mib() -> float | None:
    """Returns this process's resident memory in MiB; None where the system has no such number."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
