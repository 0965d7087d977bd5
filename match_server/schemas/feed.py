"""The change feed as it is asked for, and who follows it."""

from typing import Annotated

from pydantic import Field

from match_server.schemas.base import ApiModel, InText, Moment, Name, Paging

MAX_WAIT_S = 30.0


class _Followed(ApiModel):
    collection: Name
    groups: Annotated[list[Name], InText.COMMAS] = Field(
        default=[],
        max_length=100,
        description="Only persons of these groups, separated by commas. A device gets what it was "
        "given, and leaves this out.",
    )
    device: Name | None = Field(
        default=None, description="The device that follows, where the key does not name one."
    )
    keep_h: float | None = Field(
        default=None,
        gt=0,
        le=24 * 366,
        description="Hours after which the follower forgets by itself what it holds, unless it "
        "has spoken with the server.",
    )


class ChangesQuery(_Followed):
    since: int = Field(
        ge=0,
        lt=2**63,
        description="Number up to which everything is applied and durable: it acknowledges.",
    )
    scope: str | None = Field(
        default=None, max_length=64, description="As the snapshot gave it: 410 when it has changed."
    )
    wait: float = Field(default=0, ge=0, le=MAX_WAIT_S, description="Seconds to wait for a change.")


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
    names: bool = Field(default=False, description="Whether the box learns the persons' names.")


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
        description="Only those that hold something and are not yet here.",
    )


class FollowerView(Granted):
    """What a device may hold and how far it has come; an erasure is there once `seq` is past it."""

    device: str
    granted_at: Moment
    withdrawn_at: Moment | None = Field(
        description="It may not any more, but has not asked since and so does not know."
    )
    seq: int | None = Field(
        description="Of the feed, that it has acknowledged; 0 while it takes a snapshot; null: "
        "it has never asked."
    )
    behind: int | None = Field(description="Changes of this collection that it has not yet.")
    spoke_at: Moment | None
    forgets_at: Moment | None = Field(
        description="When it forgets everything by itself unless it speaks again."
    )
    decided: int = Field(description="Probes that it decided by itself.")
    disagreed: int = Field(description="Of these, that this server decided otherwise.")
