"""Webhooks: addresses that are told of events."""

from typing import Annotated

from pydantic import AfterValidator, Field

from match_server.schemas.base import ApiModel, Decision, Moment, Name
from match_server.services.webhooks.addresses import web_address


def _callable(url: str) -> str:
    web_address(url)
    return url


Url = Annotated[
    str,
    Field(min_length=8, max_length=2000, examples=["https://example.org/muster"]),
    AfterValidator(_callable),
]


class WebhookFilters(ApiModel):
    """What a webhook is told: all of these must fit; an empty list lets everything through."""

    decisions: tuple[Decision, ...] = Field(default=(), max_length=3)
    cameras: tuple[Name, ...] = Field(default=(), max_length=200)
    collections: tuple[Name, ...] = Field(default=(), max_length=200)
    groups: tuple[Name, ...] = Field(
        default=(), max_length=200, description="Ids of groups, one of which the person is in."
    )


class WebhookCreate(WebhookFilters):
    url: Url


class WebhookView(WebhookFilters):
    id: str
    url: str
    created_at: Moment
    enabled: bool
    disabled_reason: str | None = Field(description="Why it is called no more, until `enable`.")
    waiting: int = Field(description="Events that it has still to be told, or may have to be.")
    dead: int = Field(description="Events that it did not take: the dead-letter list.")
    failures: int = Field(description="Failed calls since the last that succeeded.")
    failing_since: Moment | None
    delivered_at: Moment | None = Field(description="When it last took an event.")


class WebhookCreated(WebhookView):
    secret: str = Field(
        description="Key of the signatures (HMAC-SHA256). It is shown this once.",
        examples=["whsec_…"],
    )


class DeadLetter(ApiModel):
    """An event that a webhook did not take."""

    event: str = Field(description="Id of the event.")
    revision: int
    attempts: int
    first_at: Moment
    dead_at: Moment
    reason: str


class Resend(ApiModel):
    events: tuple[str, ...] | None = Field(
        default=None, max_length=1000, description="Ids of events; without, all dead letters."
    )


class Resent(ApiModel):
    events: int = Field(description="Dead letters that will be tried again.")
