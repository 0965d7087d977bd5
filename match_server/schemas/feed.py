"""The change feed and its followers."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from match_server.schemas.base import ApiModel, InText, Moment, Name, Paging

MAX_WAIT_S = 30.0


class _Followed(ApiModel):
    collection: Name
    groups: Annotated[list[Name], InText.COMMAS] = Field(
        default=[],
        max_length=100,
        description="Only persons of these groups, separated by commas. A device leaves this out: "
        "it gets what was granted to it.",
    )
    device: Name | None = Field(
        default=None, description="The device that follows, where the key does not name one."
    )
    keep_h: float | None = Field(
        default=None,
        gt=0,
        le=24 * 366,
        description="Hours after which the follower deletes by itself what it holds, unless it has "
        "contacted the server.",
    )


class ChangesQuery(_Followed):
    since: int = Field(
        ge=0,
        lt=2**63,
        description="Number up to which the follower has stored everything: an acknowledgement.",
    )
    scope: str | None = Field(
        default=None, max_length=64, description="That of the snapshot; 410 when it has changed."
    )
    wait: float = Field(default=0, ge=0, le=MAX_WAIT_S, description="Seconds to wait for a change.")
    templates: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="Number of templates that a device holds, with `digest` and `at`: they are "
        "compared with the database; 410 when they differ.",
    )
    digest: str | None = Field(
        default=None, pattern="^[0-9a-f]{16}$", description="Digest of these templates."
    )
    at: Moment | None = Field(
        default=None, description="Time of the device, by which it has removed expired persons."
    )

    @model_validator(mode="after")
    def _digest_is_whole(self) -> Self:
        held = self.templates, self.digest, self.at
        if None in held and held != (None, None, None):
            raise ValueError("`templates`, `digest` and `at` go together")
        return self


class SnapshotQuery(_Followed):
    after: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="Template number after which to go on with a snapshot that was cut short.",
    )


class Granted(ApiModel):
    """A collection, or groups of it, that a device may hold the templates of."""

    collection: Name
    groups: list[Name] = Field(
        default=[], max_length=100, description="Only persons of these groups; none: everybody."
    )
    names: bool = Field(default=False, description="Whether the box gets the persons' names.")


class GalleriesPut(ApiModel):
    """All that a device may hold; what is left out is withdrawn."""

    galleries: list[Granted] = Field(max_length=64)


class FollowerQuery(Paging):
    collection: Name | None = None
    device: Name | None = None
    behind: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="Only followers that hold templates and have not reached this number.",
    )


class FollowerView(Granted):
    """What a device may hold, and how far it has followed: erasures up to `seq` have reached it."""

    device: str
    granted_at: Moment
    withdrawn_at: Moment | None = Field(
        description="When it was withdrawn; the device has not contacted the server since."
    )
    seq: int | None = Field(
        description="Number of the feed that it has acknowledged; 0: it is taking a snapshot; "
        "null: it has never followed."
    )
    behind: int | None = Field(description="Changes of this collection that it does not have yet.")
    spoke_at: Moment | None
    forgets_at: Moment | None = Field(
        description="When it deletes everything by itself, unless it contacts the server again."
    )
    decided: int = Field(description="Probes that it decided by itself.")
    disagreed: int = Field(description="Of these, probes that this server decided otherwise.")
    differs: str | None = Field(
        description="How its templates differed from the database when they were last compared; "
        "null: they did not."
    )
