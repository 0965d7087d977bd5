"""The calls without a key: liveness, readiness and the OpenAPI document."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from flask import Response, jsonify

from match_server.api.cached_response import CachedResponse
from match_server.api.routing import Routes
from match_server.container import Services
from match_server.db.migrations import current_revision, head_revision
from match_server.schemas.health import Alive, Check, Ready
from shared.errors import MusterError


def health_routes(
    services: Services, warmed: Callable[[], bool], document: Callable[[], Mapping[str, Any]]
) -> Routes:
    """`warmed` returns true when the galleries are loaded, `document` the OpenAPI document."""
    routes = Routes("health")
    alive = Alive(version=version("muster"))
    cached_document = CachedResponse(lambda: jsonify(document()))

    @routes.add("GET", "/healthz", None)
    def get_healthz() -> Alive:
        """Check that the process responds."""
        return alive

    @routes.add("GET", "/readyz", None, errors=(503,), response=Ready)
    def get_readyz() -> Response:
        """Check that database and galleries are ready for requests."""
        required = [_database(services), _galleries(loaded=warmed())]
        ready = all(check.ok for check in required)
        checks = [*required, *_locked(services), *_damaged(services)]
        report = Ready(status="ready" if ready else "not_ready", checks=checks)
        response = jsonify(report.model_dump(mode="json"))
        response.status_code = 200 if ready else 503
        return response

    @routes.add("GET", "/openapi.json", None)
    def get_openapi() -> Response:
        """This contract, as OpenAPI 3.1."""
        return cached_document()

    return routes


def _galleries(*, loaded: bool) -> Check:
    message = "loaded" if loaded else "still being loaded"
    return Check(name="galleries", ok=loaded, message=message)


def _locked(services: Services) -> list[Check]:
    """The number of encrypted collections that cannot be read; no names, as no key is needed."""
    try:
        locked = services.vault.locked(services.database)
    except MusterError:
        return []  # the database's own check says why
    if not locked:
        return []
    message = (
        f"{len(locked)} encrypted collections cannot be read: their master key was not given "
        "(MUSTER_ENCRYPTION_KEY_FILE); all others are served"
    )
    return [Check(name="encryption", ok=False, message=message)]


def _damaged(services: Services) -> list[Check]:
    """The number of templates that this process could not load into its galleries."""
    count = services.galleries.damaged()
    if not count:
        return []
    message = (
        f"{count} templates cannot be read, so nobody is found by them: `match-server doctor` says "
        "which; all others are searched"
    )
    return [Check(name="templates", ok=False, message=message)]


def _database(services: Services) -> Check:
    try:
        revision, head = current_revision(services.database), head_revision()
    except MusterError as error:
        return Check(name="database", ok=False, message=error.message)
    if revision != head:
        return Check(
            name="database",
            ok=False,
            message=f"is at migration {revision}, this server needs {head}: match-server migrate",
        )
    return Check(name="database", ok=True, message=f"at migration {head}")
