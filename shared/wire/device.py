"""What box and server say to each other about the box itself: health, ledger, configuration."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from shared.clock import sensible
from shared.wire.base import WireModel
from shared.wire.messages import Name

Count = Annotated[int, Field(ge=0, lt=2**53)]
Moment = Annotated[AwareDatetime, AfterValidator(sensible)]


class LedgerDay(WireModel):
    """Why faces before one camera were or were not recognised, on one day (UTC), so far.

    Totals, so a later message replaces an earlier one and a lost one costs nothing.
    """

    camera: Name
    day: date
    tracks: Count  # that ended
    with_probe: Count  # of these, that gave at least one probe
    reasons: dict[Annotated[str, Field(max_length=63)], Count] = Field(max_length=64)
    """Of the others: tracks by the main reason (quality factor) why they gave none. Besides,
    `covered`: of those with a probe, tracks that showed a covered face only."""


class CameraHealth(WireModel):
    """One camera, as its box sees it."""

    camera: Name
    state: Literal["starting", "running", "stalled", "lost", "ended"]
    fps: float = Field(ge=0, le=100_000)  # frames worked on in a second, over the last period
    frames: Count
    dropped: Count  # live frames that a newer one replaced
    last_frame_at: Moment | None = None
    in_view: Count = 0
    error: str | None = Field(default=None, max_length=500)


class HealthMessage(WireModel):
    """How a box is, every 30 seconds. What a machine cannot tell is null."""

    schema_version: Literal[1] = 1
    device: Name
    at: Moment  # by the box's clock
    version: str = Field(max_length=40)  # of the agent
    model_id: str = Field(max_length=80)
    uptime_s: float = Field(ge=0, le=1e12)
    temperature_c: float | None = Field(default=None, ge=-60, le=200)
    throttled: bool | None = None  # the processor is slowed by heat or weak power
    load_1m: float | None = Field(default=None, ge=0, le=1e6)
    processors: int = Field(ge=1, le=4096)
    memory_bytes: Count  # resident, of the agent
    memory_free_bytes: Count | None = None  # of the machine
    disk_free_bytes: Count | None = None  # where the outbox lies
    # The server's clock minus the box's.
    clock_offset_s: float | None = Field(default=None, ge=-1e12, le=1e12)
    waiting: Count  # probes in the outbox
    dropped: Count  # probes that the outbox had to drop, ever
    gave_up: list[Annotated[str, Field(max_length=63)]] = Field(default_factory=list, max_length=16)
    """What the box does without, to shed load: e.g. `liveness`, `detect_every=4`."""
    problems: list[Annotated[str, Field(max_length=500)]] = Field(
        default_factory=list, max_length=16
    )
    """What is wrong on the box and a person might mend: sentences."""
    config_revision: Count = 0  # of the desired configuration that it runs with
    gallery_seq: dict[Name, Count] = Field(default_factory=dict, max_length=64)
    """By collection: how far the box's own gallery has followed the change feed."""
    cameras: list[CameraHealth] = Field(default_factory=list, max_length=64)
    ledger: list[LedgerDay] = Field(default_factory=list, max_length=512)


class HealthAnswer(WireModel):
    """The server's word on one health message, from which the box measures its clock's offset."""

    schema_version: Literal[1] = 1
    device: Name
    answers: Moment  # `at` of that message: tells which one is meant
    at: Moment  # when it came, by the server's clock
    config_revision: Count  # of the configuration that is desired now


class DesiredConfig(WireModel):
    """What the owner wants a box to run with; the box takes all of it or nothing."""

    schema_version: Literal[1] = 1
    revision: Count  # grows with each change; 0: nothing is wanted
    config: dict[str, Any]
    """Parts of the agent's settings that replace those of its file: `cameras`, `shots`, …"""


class ReportedConfig(WireModel):
    """What a box runs with, and what became of the last configuration that was wanted."""

    schema_version: Literal[1] = 1
    device: Name
    revision: Count  # that it runs with
    state: Literal["applied", "refused", "rolled_back", "trying"]
    tried: Count  # the revision that `state` is about
    message: str | None = Field(default=None, max_length=2000)  # why it was not taken
    config: dict[str, Any]  # in effect, without secrets
    at: Moment


class DeviceGrant(WireModel):
    """What a box gets for its enrollment code, once."""

    schema_version: Literal[1] = 1
    device: Name
    site: Name
    key: str = Field(min_length=1, max_length=200, repr=False)
