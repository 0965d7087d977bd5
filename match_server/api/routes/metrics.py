"""Metrics, in the format of Prometheus."""

from flask import Response

from match_server.api.routing import Routes
from match_server.container import Services
from match_server.services.auth.keys import Permission
from match_server.services.database_gauges import database_gauges


def metrics_routes(services: Services) -> Routes:
    routes = Routes("health")
    permission = Permission.READ if services.settings.metrics_need_key else None

    @routes.add("GET", "/metrics", permission, media_type="text/plain")
    def get_metrics() -> Response:
        """Read the metrics, for Prometheus."""
        database = services.database
        services.set_gauges()
        text, media_type = services.metrics.exposition(
            lambda: database_gauges(database, services.settings.data_dir)
        )
        return Response(text, content_type=media_type)

    return routes
