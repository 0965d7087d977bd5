"""Makes probes without a camera."""

from datetime import UTC, datetime

import numpy as np

from edge_agent.vision.probe import Probe
from shared.ids import new_id
from shared.wire.quality import Quality
from shared.wire.template import Template, unit_rows

DEVICE = "box-1"
NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def make_probe(
    *,
    seed: int = 0,
    thumbnail: bytes | None = None,
    model_id: str = "test@1",
    captured_at: datetime = NOON,
) -> Probe:
    vector = unit_rows(np.random.default_rng(seed).normal(size=(1, 512)))[0]
    return Probe(
        probe_id=new_id(),
        camera="door",
        captured_at=captured_at,
        track_id=new_id(),
        template=Template(model_id, vector),
        quality=Quality(score=0.5),
        pose=None,
        liveness=0.5,
        detection_score=0.9,
        box=(1.0, 2.0, 30.0, 40.0),
        frame_size=(640, 480),
        thumbnail=thumbnail,
    )
