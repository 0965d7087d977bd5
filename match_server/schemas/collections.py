"""Collections and the policy by which they decide."""

from typing import Literal

from pydantic import Field

from match_server.schemas.base import (
    ApiModel,
    Metadata,
    Moment,
    Name,
    Pending,
    Threshold,
    Written,
)


class Policy(ApiModel):
    """The operating point of a collection: what turns a candidate list into a decision."""

    threshold: Threshold = Field(
        default=0.35, description="Similarity from which the best candidate is identified."
    )
    margin: float = Field(
        default=0.0,
        ge=0,
        le=2,
        description="When the best two persons are closer than this the answer is `ambiguous`.",
    )
    gate: Literal["doorway", "passport", "off"] = Field(
        default="doorway", description="Quality asked of a picture that a person is enrolled from."
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


class PolicyPatch(ApiModel):
    """The points of a policy that change; the others stay."""

    threshold: Threshold | None = None
    margin: float | None = Field(default=None, ge=0, le=2)
    gate: Literal["doorway", "passport", "off"] | None = None
    candidates: int | None = Field(default=None, ge=1, le=50)
    live_s: float | None = Field(default=None, gt=0, le=3600)


class CollectionCreate(ApiModel):
    name: Name = Field(examples=["staff"])
    max_templates: int | None = Field(default=None, ge=1, le=10**12)
    encrypted: Literal[False] = Field(
        default=False, description="Encrypted collections are not offered yet."
    )
    metadata: Metadata = Field(default_factory=dict)
    policy: Policy = Policy()


class CollectionPatch(ApiModel):
    """What is given changes. The model of a collection never does."""

    name: Name | None = None
    max_templates: int | None = Field(default=None, ge=1, le=10**12)
    metadata: Metadata | None = None
    policy: PolicyPatch | None = None


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
    created_at: Moment


class CollectionWritten(CollectionView, Written):
    pass


class CollectionErased(Written):
    """What went with the collection."""

    name: str
    persons: int
    templates: int
    images: int
    snapshots: int
    pending: Pending = 0
