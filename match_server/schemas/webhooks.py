"""Webhooks: URLs that get a request for each event."""

from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field

from match_server.schemas.base import ApiModel, Decision, Moment, Name

_SCHEMES = ("http", "https")


def web_address(url: str) -> SplitResult:
    """The parts of the URL of a webhook. Raises ValueError for a URL that cannot be called."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError("is an address like https://example.org/hook (http or https)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("may not hold a user name or password: the body is signed instead")
    if (
        parts.fragment
        or not url.isascii()
        or any(character <= " " or character == "\x7f" for character in url)
    ):
        raise ValueError("may hold neither a fragment nor blanks nor characters beyond ASCII")
    if parts.port == 0:
        raise ValueError("has a port that cannot be called")
    if not _is_host_name(parts.hostname):
        raise ValueError("has a host name with an empty label, or one of more than 63 characters")
    return parts


def _is_host_name(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _checked(url: str) -> str:
    web_address(url)
    return url


Url = Annotated[
    str,
    Field(min_length=8, max_length=2000, examples=["https://example.org/muster"]),
    AfterValidator(_checked),
]


class WebhookFilters(ApiModel):
    """Filters of events: an event must match all of them; an empty list matches every event."""

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
    disabled_reason: str | None = Field(
        description="Why it is not called any more, until `enable`."
    )
    waiting: int = Field(description="Events that are still to be sent, or may have to be.")
    dead: int = Field(description="Events that it did not accept: the dead-letter list.")
    failures: int = Field(description="Failed calls since the last that succeeded.")
    failing_since: Moment | None
    delivered_at: Moment | None = Field(description="When it last accepted an event.")


class WebhookCreated(WebhookView):
    secret: str = Field(
        description="Key of the signatures (HMAC-SHA256). It is shown this once.",
        examples=["whsec_…"],
    )


class DeadLetter(ApiModel):
    """An event that a webhook did not accept."""

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
