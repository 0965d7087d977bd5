"""Webhooks: addresses that are told of events."""

from match_server.api.routing import Endpoint
from match_server.container import Services
from match_server.schemas.base import Page, Paging
from match_server.schemas.webhooks import (
    DeadLetter,
    Resend,
    Resent,
    WebhookCreate,
    WebhookCreated,
    WebhookView,
)
from match_server.services.auth.keys import Permission

_WEBHOOK = "/v1/webhooks/<webhook>"


def webhook_endpoints(services: Services) -> list[Endpoint]:
    """Administering webhooks."""
    do = services.webhooks
    return [
        Endpoint(
            "POST", "/v1/webhooks", "webhooks", "Have an address told of events",
            handle=lambda body: do.create(body), permission=Permission.ADMINISTER,
            body=WebhookCreate, answer=WebhookCreated, status=201, errors=(400, 404),
            example={
                "url": "https://example.org/muster",
                "decisions": ["identified"],
                "cameras": ["front-door"],
            },
        ),
        Endpoint(
            "GET", "/v1/webhooks", "webhooks", "List the webhooks, without their secrets",
            handle=lambda query: do.page(query), permission=Permission.ADMINISTER,
            query=Paging, answer=Page[WebhookView], errors=(400,),
        ),
        Endpoint(
            "GET", _WEBHOOK, "webhooks", "Read a webhook, and how its deliveries go",
            handle=lambda webhook: do.get(webhook), permission=Permission.ADMINISTER,
            answer=WebhookView, errors=(404,),
        ),
        Endpoint(
            "DELETE", _WEBHOOK, "webhooks", "Remove a webhook",
            handle=lambda webhook: do.remove(webhook), permission=Permission.ADMINISTER,
            answer=WebhookView, errors=(404,),
        ),
        Endpoint(
            "POST", f"{_WEBHOOK}/enable", "webhooks",
            "Call a disabled webhook again, from where it stopped",
            handle=lambda webhook: do.enable(webhook), permission=Permission.ADMINISTER,
            answer=WebhookView, errors=(404,),
        ),
        Endpoint(
            "GET", f"{_WEBHOOK}/dead", "webhooks", "List the events that it did not take",
            handle=lambda webhook, query: do.dead_letters(webhook, query),
            permission=Permission.ADMINISTER, query=Paging, answer=Page[DeadLetter],
            errors=(400, 404),
        ),
        Endpoint(
            "POST", f"{_WEBHOOK}/resend", "webhooks", "Send dead letters again",
            handle=lambda webhook, body: do.resend(webhook, body),
            permission=Permission.ADMINISTER, body=Resend, answer=Resent, errors=(400, 404),
            example={"events": ["01a2031f-5c5f-7000-8000-000000000001"]},
        ),
    ]  # fmt: skip
