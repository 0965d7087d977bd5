"""Devices: their state, configuration, ledger and enrollment codes."""

import datetime as dt
import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue

from match_server.schemas.base import ApiModel, Metadata, Moment, Name, Paging
from shared.wire.device import HealthMessage, ReportedConfig

ConfigState = Literal["none", "waiting", "applied", "refused", "rolled_back", "trying"]


class DeviceCreate(ApiModel):
    name: Name = Field(examples=["entrance-box"], description="Unique; how the box calls itself.")
    site: Name = "main"
    collection: Name | None = Field(
        default=None, description="Collection that its probes search; else the server's default."
    )


class DevicePatch(ApiModel):
    """Changes; fields that are not given stay. `collection: null` sets the default one."""

    site: Name | None = None
    collection: Name | None = None


class DeviceQuery(Paging):
    q: str | None = Field(default=None, min_length=1, max_length=63, description="Part of the name")
    site: Name | None = None
    collection: Name | None = Field(
        default=None, description="Devices that were given this collection by name."
    )


class SequenceView(ApiModel):
    """Probes carry numbers without gaps, so the server sees which have not come."""

    first: int | None
    last: int | None
    received: int = Field(description="Probes that were stored, of these numbers.")
    missing: int = Field(description="Numbers between first and last that have not come.")


class GapView(ApiModel):
    first: int
    last: int


class ConfigStateView(ApiModel):
    """Progress of the desired configuration."""

    desired_revision: int = Field(description="0: there never was one.")
    running_revision: int | None = Field(
        description="As the device reports it; 0: only its own file."
    )
    state: ConfigState = Field(
        description="`waiting`: the device has not reported on the desired revision yet."
    )
    message: str | None = Field(default=None, description="Why it was refused.")


class DeviceView(ApiModel):
    name: str
    site: str | None
    collection: str | None = Field(description="null: the server's default collection.")
    online: bool = Field(description="By its status over MQTT, or heard in the last 90 seconds.")
    last_seen_at: Moment | None
    created_at: Moment | None
    valid_keys: int = Field(description="Keys that may speak for this device alone.")
    sequence: SequenceView
    config: ConfigStateView
    health_at: Moment | None = Field(description="When the newest health message came.")
    health: HealthMessage | None = Field(description="That message, without its ledger.")


class HealthPoint(ApiModel):
    """A summary of a health message of the last hour."""

    at: Moment
    temperature_c: float | None
    load_1m: float | None
    memory_bytes: int
    waiting: int
    fps: float = Field(description="Of all cameras together.")
    gave_up: list[str]


class DeviceDetail(DeviceView):
    gaps: list[GapView] = Field(description="Runs of missing numbers, newest first, 100 at most.")
    history: list[HealthPoint] = Field(description="The last hour's health, oldest first.")


class DeviceCreated(DeviceView):
    key: str = Field(description="The key of the box. It is shown this once, kept only as a hash.")


class DeviceErased(ApiModel):
    device: str
    keys_revoked: int
    ledger_days: int


class DeviceCodeMade(ApiModel):
    device: str
    code: str = Field(examples=["ABCD-1234"], description="Shown this once; kept as a hash.")
    expires_at: Moment
    invitation: str | None = Field(
        description="The text of a QR picture for the camera of the box; "
        "null while the setting `public_url` is not given."
    )


class DeviceEnroll(ApiModel):
    code: Annotated[str, Field(min_length=8, max_length=40)] = Field(examples=["ABCD-1234"])
    signs: bool = Field(
        default=False, description="The box signs its messages over a broker, as agents do."
    )


class ConfigPut(ApiModel):
    config: Metadata = Field(
        description="Parts of the agent's settings that replace those of its file; {} for none.",
        examples=[{"shots": {"gate": "passport"}}],
    )


class Searched(ApiModel):
    collection: Name
    model_id: str


class ConfigView(ApiModel):
    device: str
    revision: int = Field(description="Of the desired configuration; grows with each change.")
    config: dict[str, JsonValue] = Field(description="What is desired.")
    desired_at: Moment | None
    reported: ReportedConfig | None
    reported_at: Moment | None
    searches: Searched | None = Field(
        default=None, description="The collection that this device's probes search, and its model."
    )


def _written_day(value: object) -> object:
    """Refuses numbers, which pydantic would read as seconds since 1970."""
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        raise ValueError("a day is written like 2026-11-22")
    return value


Day = Annotated[dt.date, BeforeValidator(_written_day)]


class LedgerQuery(ApiModel):
    since: Day | None = Field(default=None, description="First day (UTC).")
    until: Day | None = Field(default=None, description="Last day (UTC).")
    camera: Name | None = None


class LedgerDayView(ApiModel):
    camera: str
    day: dt.date
    tracks: int = Field(description="Faces that came into view and left.")
    with_probe: int = Field(description="Of these, those that were good enough to be searched.")
    reasons: dict[str, int] = Field(
        description="The others by their main reason: the quality factor that did not pass."
    )
    in_plain_terms: dict[str, int] = Field(description="The same for people: too small, blurred …")


class LedgerView(ApiModel):
    items: list[LedgerDayView] = Field(description="Newest day first; 400 at most.")
