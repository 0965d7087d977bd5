"""A probe as the device makes it. The outbox numbers it before it is sent as a message."""

import base64
from dataclasses import dataclass
from datetime import datetime

from shared.wire.messages import LocalDecision, ProbeMessage
from shared.wire.quality import Pose, Quality
from shared.wire.template import Template, encode_template


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """One best shot of one track, embedded, not yet numbered."""

    probe_id: str  # UUIDv7; the server knows a repeated probe by it
    camera: str
    captured_at: datetime  # timezone-aware, UTC
    track_id: str  # UUIDv7
    template: Template
    quality: Quality
    pose: Pose | None
    liveness: float | None  # 0..1, median over the scores of the track
    detection_score: float  # 0..1
    box: tuple[float, float, float, float]  # x1 y1 x2 y2, pixels of the whole upright picture
    frame_size: tuple[int, int]  # width, height of that picture in pixels
    thumbnail: bytes | None  # JPEG
    local: LocalDecision | None = None  # the decision of the device itself
    shots: int = 1  # of the track, of which the template is fused

    def message(self, device: str, sequence: int) -> ProbeMessage:
        """The probe as a wire message, with number `sequence` of `device`."""
        thumbnail = None if self.thumbnail is None else base64.b64encode(self.thumbnail).decode()
        return ProbeMessage(
            probe_id=self.probe_id,
            device=device,
            camera=self.camera,
            sequence=sequence,
            captured_at=self.captured_at,
            track_id=self.track_id,
            model_id=self.template.model_id,
            template=encode_template(self.template),
            quality=self.quality,
            pose=self.pose,
            liveness=self.liveness,
            detection_score=self.detection_score,
            shots=self.shots,
            local=self.local,
            box=self.box,
            frame_size=self.frame_size,
            thumbnail=thumbnail,
        )

    @property
    def size_bytes(self) -> int:
        """The approximate size of the probe in memory and in the outbox."""
        return self.template.vector.nbytes + len(self.thumbnail or b"") * 4 // 3 + 1024
