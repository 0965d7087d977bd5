"""The thread that calls webhooks, for the processes that run it."""

from importlib.metadata import version

from match_server.container import Services
from match_server.db.leader_lock import leader_lock
from match_server.services.webhooks.calls import Caller
from match_server.services.webhooks.delivery import Deliverer, RetryPolicy


def webhook_deliverer(services: Services, retry: RetryPolicy | None = None) -> Deliverer:
    """Returns the deliverer of webhooks, which works while it holds the leader lock."""
    settings = services.settings
    return Deliverer(
        services.database,
        services.event_feed,
        Caller(
            timeout_s=settings.webhook_timeout_s,
            private=settings.webhook_private_addresses,
            version=version("muster"),
        ),
        leader_lock(services.database, "webhooks", settings.data_dir),
        services.secrets,
        services.clock,
        retry,
        metrics=services.metrics,
    )
