"""The wire contract, version 1: what box and server say to each other, over MQTT and HTTP."""

import base64
import binascii
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, field_validator

from shared.clock import sensible
from shared.ids import NAME_PATTERN, UUID_PATTERN
from shared.wire.base import WireModel
from shared.wire.quality import Pose, Quality

SCHEMA_VERSION = 1
MAX_THUMBNAIL_BYTES = 65_536

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Uuid = Annotated[str, Field(pattern=UUID_PATTERN)]
Fraction = Annotated[float, Field(ge=0, le=1)]
_Side = Annotated[int, Field(ge=1, le=65_535)]  # of a frame


class LocalDecision(WireModel):
    """What the box itself made of a probe, with the gallery that it holds."""

    collection: Name
    decision: Literal["identified", "ambiguous", "unknown"]
    person: str | None = Field(default=None, max_length=63)  # id; set when identified
    similarity: float | None = Field(default=None, ge=-1.001, le=1.001)  # of the best candidate
    seq: int = Field(ge=0, lt=2**63)  # of the change feed, that the box's gallery had reached


class ProbeMessage(WireModel):
    """One best shot of one track: a template to be searched, and what is known about it."""

    schema_version: Literal[1] = 1
    probe_id: Uuid  # the idempotency key
    device: Name
    camera: Name
    # Per device, without gaps: the server reports what is missing.
    sequence: int = Field(ge=1, lt=2**63)
    # When the shot was taken, by the box's clock.
    captured_at: Annotated[AwareDatetime, AfterValidator(sensible)]
    track_id: Uuid  # the same for all probes of one track
    model_id: str = Field(min_length=1, max_length=80)
    template: str = Field(min_length=4, max_length=11_000)  # base64 of little-endian float16
    quality: Quality
    pose: Pose | None = None
    liveness: Fraction | None = (
        None  # the model's score that the face is live; weak, never certified
    )
    detection_score: Fraction
    # Of the track, that the template is fused from. More than one: the sender fuses, and the answer
    # replaces that to fewer. One: the server fuses it with the track's other probes.
    shots: int = Field(default=1, ge=1, le=64)
    local: LocalDecision | None = None
    box: tuple[float, float, float, float]  # x1 y1 x2 y2, pixels of the frame
    frame_size: tuple[_Side, _Side]  # width, height in pixels
    thumbnail: str | None = Field(
        default=None, max_length=4 * MAX_THUMBNAIL_BYTES // 3 + 4
    )  # base64 JPEG

    @field_validator("box")
    @classmethod
    def _box_has_area(
        cls, box: tuple[float, float, float, float]
    ) -> tuple[float, float, float, float]:
        if not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError("a box is x1 y1 x2 y2 with x1 < x2 and y1 < y2")
        return box

    @field_validator("thumbnail")
    @classmethod
    def _thumbnail_is_jpeg(cls, text: str | None) -> str | None:
        if text is not None and not _decode_base64(text).startswith(b"\xff\xd8\xff"):
            raise ValueError("a thumbnail is base64 of a JPEG picture")
        return text

    @property
    def thumbnail_jpeg(self) -> bytes | None:
        return None if self.thumbnail is None else _decode_base64(self.thumbnail)


class LocalEventMessage(WireModel):
    """A decision of the box alone, for subscribers nearby. The server's event replaces it later.

    Only these messages have `local`: a door that opens by one trusts the box alone.
    """

    schema_version: Literal[1] = 1
    local: Literal[True] = True
    device: Name
    camera: Name
    track_id: Uuid
    probe_id: Uuid
    captured_at: Annotated[AwareDatetime, AfterValidator(sensible)]
    decided: LocalDecision
    name: str | None = Field(default=None, max_length=200)  # where the box may know it
    liveness: Fraction | None = None
    quality_score: Fraction
    shots: int = Field(default=1, ge=1, le=64)  # of the track, that the decision rests on


class ProbeReceipt(WireModel):
    """What became of one probe: stored (`accepted`, `duplicate`) or never to be (`refused`)."""

    probe_id: str = Field(max_length=80)
    status: Literal["accepted", "duplicate", "refused"]
    code: str | None = None  # error code of a refusal
    message: str | None = None  # and its sentence


class ReceiptMessage(WireModel):
    """The server's answer to one device over MQTT; the box forgets the probes that it names."""

    schema_version: Literal[1] = 1
    receipts: list[ProbeReceipt] = Field(min_length=1, max_length=1000)


class StatusMessage(WireModel):
    """Retained: said by the box when it comes, by the broker (last will) when it is gone."""

    schema_version: Literal[1] = 1
    device: Name
    online: bool


class TrackMessage(WireModel):
    """A face came into a camera's view, or left it. For now, not for ever: never stored late."""

    schema_version: Literal[1] = 1
    device: Name
    camera: Name
    track_id: Uuid
    state: Literal["began", "ended"]
    at: Annotated[AwareDatetime, AfterValidator(sensible)]  # when it came or left, box's clock
    began_at: Annotated[AwareDatetime, AfterValidator(sensible)]
    in_view: int = Field(ge=0, le=10_000)  # confirmed faces before this camera after this message
    probes: int = Field(ge=0, lt=2**63)  # that this track has given so far
    reasons: list[str] = Field(default_factory=list, max_length=32)
    """Ended without a probe: the quality factors that did not pass, worst first."""


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
