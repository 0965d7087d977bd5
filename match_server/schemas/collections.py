"""Collections and the policy by which they decide."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from match_server.schemas.base import (
    ApiModel,
    Metadata,
    ModelId,
    Moment,
    Name,
    Paging,
    Pending,
    Threshold,
    Written,
)
from match_server.schemas.retention import Retention

GateName = Literal["doorway", "passport", "off"]
CalibrationFrom = Literal["own", "reference"]
SetBy = Literal["threshold", "target_fpir", "false_alarms_per_day"]
SETS_THE_POINT: tuple[SetBy, ...] = ("threshold", "target_fpir", "false_alarms_per_day")

UNSET_THRESHOLD = 0.35
"""Threshold of a stored policy without any of the three: older servers stored such policies."""

DEFAULT_FPIR = 0.01
"""`target_fpir` of a new collection whose model has a reference calibration."""

DEFAULT_MARGIN = 0.03
"""`margin` of such a collection, unless it is set. See decision 33."""

TargetFpir = Annotated[
    float | None,
    Field(
        default=None,
        gt=0,
        le=0.5,
        description="Share of persons not enrolled who may be identified as somebody (FPIR, at "
        "this gallery's size, at rank 1).",
    ),
]
FalseAlarms = Annotated[
    float | None,
    Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Tracks of persons not enrolled that may be given a name, in a day.",
    ),
]
Traffic = Annotated[
    float | None,
    Field(
        default=None,
        gt=0,
        le=1_000_000_000,
        description="Tracks of persons not enrolled in a day, all cameras of this collection "
        "together. null: measured from the events of the last 7 days.",
    ),
]
LeastTraffic = Annotated[
    float | None,
    Field(
        default=None,
        gt=0,
        le=1_000_000_000,
        description="Lower limit of the measured traffic, so that a quiet week does not lower the "
        "threshold. Default: the traffic that was measured when `false_alarms_per_day` was set.",
    ),
]


def _require_single_target(policy: Mapping[str, Any]) -> None:
    named = [name for name in SETS_THE_POINT if policy.get(name) is not None]
    if len(named) > 1:
        raise ValueError(f"give only one of {' and '.join(f'`{name}`' for name in named)}")


class Policy(ApiModel):
    """What turns a candidate list into a decision.

    One of `threshold`, `target_fpir` and `false_alarms_per_day` sets the operating point. A new
    collection for which none is given gets `target_fpir` 0.01 with a `margin` of 0.03, or the
    `threshold` of the pack's manifest where the pack has no reference calibration. From the last
    two the server derives the threshold by the collection's calibration, else by the reference, and
    moves it as the gallery grows.
    """

    threshold: Threshold | None = Field(
        default=None, description="Similarity from which the best candidate is identified."
    )
    target_fpir: TargetFpir = None
    false_alarms_per_day: FalseAlarms = None
    traffic: Traffic = None
    least_traffic: LeastTraffic = None
    margin: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="When the best two persons are closer than this, the decision is `ambiguous`.",
    )
    gate: GateName = Field(
        default="doorway",
        description="Quality that a picture must have to enroll a person from it.",
    )
    candidates: int = Field(
        default=5, ge=1, le=50, description="Length of the candidate list kept with an event."
    )
    live_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Seconds after its capture for which an event may open a door.",
    )
    sighting_s: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="A person who is before the same camera again within so many seconds is the "
        "same sighting; 0: every track is a sighting of its own.",
    )
    learn_references: int = Field(
        default=0,
        ge=0,
        le=20,
        description="References that each person may get from sightings that somebody confirmed "
        "(`POST /v1/events/{id}/decision`); 0: none. Nothing is learnt without that.",
    )
    retention: Retention | None = Field(
        default=None, description="How long sightings are kept, if not as in the server's settings."
    )

    @property
    def sets_the_point(self) -> bool:
        """Whether the policy sets the operating point."""
        return any(getattr(self, name) is not None for name in SETS_THE_POINT)

    @model_validator(mode="before")
    @classmethod
    def _single_target(cls, policy: Any) -> Any:
        if isinstance(policy, dict):
            _require_single_target(policy)
        return policy

    @model_validator(mode="after")
    def _traffic_is_for_alarms(self) -> Self:
        if self.false_alarms_per_day is None:
            if self.traffic is not None or self.least_traffic is not None:
                raise ValueError("`traffic` goes with `false_alarms_per_day`")
        elif self.traffic is not None and self.false_alarms_per_day >= self.traffic:
            raise ValueError(
                "`false_alarms_per_day` must be below `traffic`: else every stranger may be a "
                "false alarm"
            )
        return self


def stored_policy(policy: Mapping[str, Any]) -> Policy:
    """A policy as it was stored; one that sets no operating point means a threshold of 0.35."""
    if all(policy.get(name) is None for name in SETS_THE_POINT):
        return Policy.model_validate({**policy, "threshold": UNSET_THRESHOLD})
    return Policy.model_validate(policy)


class PolicyPatch(ApiModel):
    """Changes of a policy; fields that are not given stay.

    One of `threshold`, `target_fpir` and `false_alarms_per_day` takes the place of the others;
    `traffic: null` lets it be measured again.
    """

    threshold: Threshold | None = None
    target_fpir: TargetFpir = None
    false_alarms_per_day: FalseAlarms = None
    traffic: Traffic = None
    least_traffic: LeastTraffic = None
    margin: float | None = Field(default=None, ge=0, le=2)
    gate: GateName | None = None
    candidates: int | None = Field(default=None, ge=1, le=50)
    live_s: float | None = Field(default=None, gt=0, le=3600)
    sighting_s: float | None = Field(default=None, ge=0, le=86_400)
    learn_references: int | None = Field(default=None, ge=0, le=20)
    retention: Retention | None = Field(
        default=None, description="Replaces all of it; {}: the server's."
    )

    @model_validator(mode="after")
    def _single_target(self) -> Self:
        _require_single_target({name: getattr(self, name) for name in SETS_THE_POINT})
        return self

    def applied_to(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The stored policy with these changes."""
        points = self.model_dump(mode="json", exclude_none=True)
        merged = {**stored, **points}
        if any(name in points for name in SETS_THE_POINT):
            merged.update({name: points.get(name) for name in SETS_THE_POINT})
            if "false_alarms_per_day" not in points:
                merged.update(traffic=None, least_traffic=None)
        for name in {"traffic", "least_traffic"} & self.model_fields_set:
            merged[name] = getattr(self, name)
        return merged


class CollectionCreate(ApiModel):
    name: Name = Field(examples=["staff"])
    max_templates: int | None = Field(default=None, ge=1, le=10**12)
    encrypted: bool = Field(
        default=False,
        description="Templates, photos and thumbnails are encrypted at rest. Cannot be changed.",
    )
    metadata: Metadata = Field(default_factory=dict)
    policy: Policy = Policy()


class CollectionQuery(Paging):
    q: str | None = Field(
        default=None, min_length=1, max_length=63, description="Part of the name."
    )
    model_id: ModelId | None = None


class CollectionPatch(ApiModel):
    """Changes; fields that are not given stay. The model of a collection never changes."""

    name: Name | None = None
    max_templates: int | None = Field(default=None, ge=1, le=10**12)
    metadata: Metadata | None = None
    policy: PolicyPatch | None = None


class OperatingPointView(ApiModel):
    """The threshold in use at this moment, and what it is derived from."""

    threshold: float = Field(description="Similarity from which the best candidate is identified.")
    set_by: SetBy
    templates: int = Field(description="Templates enrolled: N.")
    persons: int
    probes_per_track: float = Field(
        description="Searches that a track counts as: measured over the last 7 days, 2 at most; 1 "
        "without measurement. Decisions on tracks of cameras assume 2, because the probes of a "
        "track rest on the same shots."
    )
    fmr: float | None = Field(
        description="False match rate of one comparison at `threshold`; null without calibration."
    )
    fmr_upper_bound: float | None = Field(
        description="Upper bound of `fmr` with 95 % confidence, from the data alone: no tail is "
        "assumed."
    )
    fpir: float | None = Field(
        description="Share of tracks of persons not enrolled that get a name: "
        "1 - (1 - fmr)^(templates x probes_per_track)."
    )
    traffic: float | None = Field(description="Tracks of persons not enrolled in a day.")
    traffic_from: Literal["given", "measured"] | None
    false_alarms_per_day: float | None = Field(description="fpir x traffic.")
    extrapolated: bool | None = Field(
        description="Whether `fmr` is lower than what the calibration measured."
    )
    reachable: bool = Field(
        description="False: no threshold reaches the target, so only exact copies match."
    )
    calibration_from: CalibrationFrom | None = Field(
        description="`own`: the calibration that the collection has adopted; `reference`: that of "
        "the model pack, measured on other pictures than this operator's; null: there is none."
    )
    explanation: str
    warning: str | None = Field(
        description="What is wrong with this point, and what to do: a fixed threshold that names "
        "many strangers, or a model without any calibration."
    )


class CollectionView(ApiModel):
    name: str = Field(examples=["staff"])
    model_id: str = Field(description="The model of all its templates, fixed at creation.")
    dimension: int
    template_bytes: int = Field(description="Bytes of one stored template.")
    templates: int
    persons: int
    max_templates: int | None
    encrypted: bool
    metadata: Metadata
    policy: Policy
    operating_point: OperatingPointView
    created_at: Moment


class CollectionWritten(CollectionView, Written):
    pass


class CollectionErased(Written):
    """What was erased with the collection."""

    name: str
    persons: int
    templates: int
    images: int
    snapshots: int
    data_keys: int = Field(
        default=0,
        description="Keys of an encrypted collection that are destroyed: what is left of it in "
        "other places cannot be read without a backup of this database.",
    )
    pending: Pending = 0
