"""Is it alive, is it ready, and what can it do."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from flask import Response, jsonify

from match_server.api.constant_responses import ConstantAnswer
from match_server.api.routing import Endpoint
from match_server.container import Services
from match_server.db.migrations import current_revision, head_revision
from match_server.schemas.health import Alive, Check, Ready
from shared.errors import MusterError


def health_endpoints(
    services: Services, warmed: Callable[[], bool], document: Callable[[], dict[str, Any]]
) -> list[Endpoint]:
    """Calls without a key. `warmed` says whether the galleries are loaded."""
    alive = Alive(version=version("muster"))
    contract = ConstantAnswer(lambda: jsonify(document()))
    return [
        Endpoint(
            "GET", "/healthz", "health", "The process answers",
            handle=lambda: alive, permission=None, answer=Alive,
        ),
        Endpoint(
            "GET", "/readyz", "health", "Database and galleries are ready for requests",
            handle=lambda: _ready(services, warmed), permission=None, answer=Ready, errors=(503,),
        ),
        Endpoint(
            "GET", "/openapi.json", "health", "This contract, as OpenAPI 3.1",
            handle=contract, permission=None,
        ),
    ]  # fmt: skip


def _ready(services: Services, warmed: Callable[[], bool]) -> Response:
    checks = [_database(services), Check(name="galleries", ok=warmed(), message="")]
    checks[1] = checks[1].model_copy(
        update={"message": "loaded" if checks[1].ok else "still being loaded"}
    )
    ready = all(check.ok for check in checks)
    checks += _locked(services)  # the others are served all the same
    checks += _damaged(services)
    answer = Ready(status="ready" if ready else "not_ready", checks=checks)
    response = jsonify(answer.model_dump(mode="json"))
    response.status_code = 200 if ready else 503
    return response


def _locked(services: Services) -> list[Check]:
    """Says how many encrypted collections cannot be read; this call needs no key, so no names."""
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
    """Says how many templates this process had to leave out of its galleries."""
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
