"""The Flask application, built from the services."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.middleware.proxy_fix import ProxyFix

from match_server.api.auth import Gatekeeper
from match_server.api.client_connection import call_after_response
from match_server.api.errors import register_errors
from match_server.api.openapi import openapi_document
from match_server.api.parsing import BoundedRequest
from match_server.api.picture_limit import PictureLimit
from match_server.api.routes import all_routes
from match_server.api.view import view_of
from match_server.container import Services
from match_server.pages.blueprint import pages
from match_server.services.audit.chain import Actor, act_as
from match_server.services.metrics import Metrics
from shared.errors import MalformedInput
from shared.ids import new_id

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# Of a form field that is not a file. The multipart reader uses it as its buffer too, and reads
# 64 KiB at a time: with a smaller value it would refuse long files.
_FORM_FIELD_BYTES = 512 * 1024
_FORM_PARTS = 32
_WITHOUT_KEY = "/v1/devices/enroll"
_MAX_BYTES_WITHOUT_KEY = 16 * 1024


def create_app(
    services: Services,
    secret: bytes,
    *,
    stopping: Callable[[], bool] = lambda: False,
    follow: bool = True,
) -> Flask:
    """The application over these services. `secret` signs page sessions.

    With `follow`, a thread loads the galleries and keeps them up to date; /readyz waits until they
    are loaded.
    """
    app = Flask("match_server", static_folder=None, template_folder=None)
    app.request_class = BoundedRequest
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = services.settings.max_body_bytes
    app.config["MAX_FORM_MEMORY_SIZE"] = _FORM_FIELD_BYTES
    app.config["MAX_FORM_PARTS"] = _FORM_PARTS
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's JSON provider
    gatekeeper = Gatekeeper(services.settings, services.keys, services.page_sessions, secret)
    pictures = PictureLimit(services.settings.threads // 2)
    if follow:
        services.background.start("worker")

    def warmed() -> bool:
        return services.background.loaded or not follow

    def document() -> Mapping[str, Any]:
        return openapi_document(routes)

    routes = all_routes(services, stopping, warmed, document)
    for route in routes:
        app.add_url_rule(
            route.path,
            route.name,
            view_of(route, services, gatekeeper, pictures),
            methods=[route.method],
            provide_automatic_options=False,
        )
    app.register_blueprint(pages(services, gatekeeper, document))
    register_errors(app)
    if proxies := services.settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies)  # type: ignore[method-assign]
    app.before_request(_begin)
    app.after_request(lambda response: _finish(response, services.metrics))
    return app


def _begin() -> None:
    request_id = request.headers.get("X-Request-Id", "")
    g.request_id = request_id if _REQUEST_ID.fullmatch(request_id) else new_id()
    g.started_s = time.monotonic()
    act_as(Actor())
    page = not request.path.startswith("/v1/")
    if request.method == "POST" and (page or request.path == _WITHOUT_KEY):
        # Without a key in a header, the body must be small and complete before a thread reads it:
        # threads wait only for clients with a key (see `match_server.process.client_socket`).
        request.max_content_length = _MAX_BYTES_WITHOUT_KEY
        if request.content_length is None and request.headers.get("Transfer-Encoding"):
            raise MalformedInput("send the body with its length (Content-Length), not in chunks")


def _finish(response: Response, metrics: Metrics) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    response.call_on_close(lambda: act_as(Actor()))  # after a stream has written its entries
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-store")
    if request.is_secure:  # a year; browsers that came by TLS once then always use TLS
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    # The rule, not the path: ids may be names of people. Never log query, body or headers.
    rule = request.url_rule.rule if request.url_rule is not None else "(none)"
    took_s = time.monotonic() - g.started_s
    method, status = request.method, response.status_code
    entry = {
        "request_id": g.request_id,
        "method": method,
        "rule": rule,
        "status": status,
        "ms": round(took_s * 1000, 1),
        "key": g.get("key_id"),
    }

    def note() -> None:
        metrics.request(rule, method, status, took_s)
        log.info("request", extra=entry)

    call_after_response(request.environ, note)
    return response
