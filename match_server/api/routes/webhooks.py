"""Webhooks."""

from match_server.api.routing import Routes
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


def webhook_routes(services: Services) -> Routes:
    routes = Routes("webhooks")
    webhooks = services.webhooks

    @routes.add(
        "POST",
        "/v1/webhooks",
        Permission.ADMINISTER,
        status=201,
        errors=(404,),
        example={
            "url": "https://example.org/muster",
            "decisions": ["identified"],
            "cameras": ["front-door"],
        },
    )
    def create_webhook(body: WebhookCreate) -> WebhookCreated:
        """Create a webhook: a URL that gets a request for each event."""
        return webhooks.create(body)

    @routes.add("GET", "/v1/webhooks", Permission.ADMINISTER)
    def list_webhooks(query: Paging) -> Page[WebhookView]:
        """List the webhooks, without their secrets."""
        return webhooks.page(query)

    @routes.add("GET", _WEBHOOK, Permission.ADMINISTER, errors=(404,))
    def get_webhook(webhook: str) -> WebhookView:
        """Read a webhook, and the state of its deliveries."""
        return webhooks.get(webhook)

    @routes.add("DELETE", _WEBHOOK, Permission.ADMINISTER, errors=(404,))
    def remove_webhook(webhook: str) -> WebhookView:
        """Remove a webhook."""
        return webhooks.remove(webhook)

    @routes.add("POST", f"{_WEBHOOK}/enable", Permission.ADMINISTER, errors=(404,))
    def enable_webhook(webhook: str) -> WebhookView:
        """Call a disabled webhook again, from where it stopped."""
        return webhooks.enable(webhook)

    @routes.add("GET", f"{_WEBHOOK}/dead", Permission.ADMINISTER, errors=(404,))
    def list_dead_letters(webhook: str, query: Paging) -> Page[DeadLetter]:
        """List the events that a webhook did not accept."""
        return webhooks.dead_letters(webhook, query)

    @routes.add(
        "POST",
        f"{_WEBHOOK}/resend",
        Permission.ADMINISTER,
        errors=(404,),
        example={"events": ["01a2031f-5c5f-7000-8000-000000000001"]},
    )
    def resend_dead_letters(webhook: str, body: Resend) -> Resent:
        """Send dead letters again."""
        return webhooks.resend(webhook, body)

    return routes
