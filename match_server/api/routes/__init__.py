"""All routes of the API."""

from collections.abc import Callable, Mapping
from typing import Any

from match_server.api.routes.audit import audit_routes
from match_server.api.routes.calibrations import calibration_routes
from match_server.api.routes.collections import collection_routes
from match_server.api.routes.devices import (
    device_config_routes,
    device_enrollment_routes,
    device_routes,
)
from match_server.api.routes.enrollment import batch_routes, image_routes, template_routes
from match_server.api.routes.events import decision_routes, event_routes
from match_server.api.routes.feed import feed_routes
from match_server.api.routes.groups import group_routes
from match_server.api.routes.health import health_routes
from match_server.api.routes.keys import key_routes
from match_server.api.routes.metrics import metrics_routes
from match_server.api.routes.persons import person_routes
from match_server.api.routes.presence import presence_routes
from match_server.api.routes.probes import probe_routes
from match_server.api.routes.search import search_routes
from match_server.api.routes.storages import storage_routes
from match_server.api.routes.webhooks import webhook_routes
from match_server.api.routing import Route
from match_server.container import Services


def all_routes(
    services: Services,
    stopping: Callable[[], bool],
    warmed: Callable[[], bool],
    document: Callable[[], Mapping[str, Any]],
) -> list[Route]:
    """All routes, in the order of the OpenAPI document, which `document` makes.

    `stopping` returns true when the process is to end, `warmed` when the galleries are loaded.
    """
    return [
        *collection_routes(services),
        *calibration_routes(services),
        *person_routes(services),
        *group_routes(services),
        *image_routes(services),
        *template_routes(services),
        *batch_routes(services),
        *storage_routes(services),
        *search_routes(services),
        *probe_routes(services),
        *event_routes(services, stopping),
        *decision_routes(services),
        *presence_routes(services),
        *feed_routes(services, stopping),
        *device_routes(services),
        *device_config_routes(services),
        *device_enrollment_routes(services),
        *key_routes(services),
        *webhook_routes(services),
        *metrics_routes(services),
        *audit_routes(services),
        *health_routes(services, warmed, document),
    ]
