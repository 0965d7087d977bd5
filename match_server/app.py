"""The Flask application: built from its services, with nothing global."""

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from flask import Flask, Response, g, request
from pydantic import BaseModel
from werkzeug.middleware.proxy_fix import ProxyFix

from match_server.api.audit import actor_of, audit_endpoints, tell_access
from match_server.api.auth import Gatekeeper
from match_server.api.batches import batch_endpoints
from match_server.api.calibrations import calibration_endpoints
from match_server.api.client_connection import allow_slow_client
from match_server.api.devices import device_endpoints
from match_server.api.errors import register_errors
from match_server.api.feed import feed_endpoints
from match_server.api.health import health_endpoints
from match_server.api.live import live_endpoints
from match_server.api.metrics import metrics_endpoints
from match_server.api.openapi import openapi_document
from match_server.api.parsing import BoundedRequest, read_body, read_query
from match_server.api.picture_limit import PictureTurns
from match_server.api.routes import (
    collection_endpoints,
    group_endpoints,
    key_endpoints,
    person_endpoints,
    reference_endpoints,
    search_endpoints,
    storage_endpoints,
)
from match_server.api.routing import Endpoint
from match_server.api.tracks import track_endpoints
from match_server.api.webhooks import webhook_endpoints
from match_server.container import Services
from match_server.pages.live import pages
from match_server.services.audit.chain import Actor, act_as
from match_server.services.metrics import Metrics
from shared.errors import MalformedInput, MusterError
from shared.ids import new_id

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# Of a field that is no file. It is also the room of the multipart reader, which takes 64 KiB at a
# time: a smaller one refuses files for their length.
_FORM_FIELD_BYTES = 512 * 1024
_FORM_PARTS = 32
_OPEN_TO_ALL = "/v1/devices/enroll"
_OPEN_BYTES = 16 * 1024


def create_app(
    services: Services,
    secret: bytes,
    *,
    stopping: Callable[[], bool] = lambda: False,
    warm: bool = True,
) -> Flask:
    """The application over these services. `secret` signs page sessions.

    With `warm`, the galleries are loaded in the background and /readyz waits for them.
    """
    app = Flask("match_server", static_folder=None, template_folder=None)
    app.request_class = BoundedRequest
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = services.settings.max_body_bytes
    app.config["MAX_FORM_MEMORY_SIZE"] = _FORM_FIELD_BYTES
    app.config["MAX_FORM_PARTS"] = _FORM_PARTS
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of the default provider
    gatekeeper = Gatekeeper(services.settings, services.keys, services.page_sessions, secret)
    pictures = PictureTurns(services.settings.threads // 2)
    endpoints = all_endpoints(services, stopping, _warmed(services) if warm else lambda: True)
    for endpoint in endpoints:
        app.add_url_rule(
            endpoint.path,
            endpoint.name,
            _view(endpoint, gatekeeper, services, pictures),
            methods=[endpoint.method],
            provide_automatic_options=False,
        )
    app.register_blueprint(pages(services, gatekeeper, lambda: openapi_document(endpoints)))
    register_errors(app)
    if proxies := services.settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies)  # type: ignore[method-assign]
    app.before_request(_begin)
    app.after_request(lambda response: _finish(response, services.metrics))
    return app


def all_endpoints(
    services: Services, stopping: Callable[[], bool], warmed: Callable[[], bool]
) -> Sequence[Endpoint]:
    """Every call of the API, in the order of the document."""
    endpoints: list[Endpoint] = [
        *collection_endpoints(services),
        *calibration_endpoints(services),
        *person_endpoints(services),
        *group_endpoints(services),
        *reference_endpoints(services),
        *batch_endpoints(services),
        *storage_endpoints(services),
        *search_endpoints(services),
        *live_endpoints(services, stopping),
        *track_endpoints(services),
        *feed_endpoints(services, stopping),
        *device_endpoints(services),
        *key_endpoints(services),
        *webhook_endpoints(services),
        *metrics_endpoints(services),
        *audit_endpoints(services),
    ]
    endpoints += health_endpoints(services, warmed, lambda: openapi_document(endpoints))
    return endpoints


def _view(
    endpoint: Endpoint, gatekeeper: Gatekeeper, services: Services, pictures: PictureTurns
) -> Callable[..., Response]:
    """The Flask view of an endpoint: who asks, what for, and the answer as JSON."""

    def view(**path: str) -> Response:
        if endpoint.permission is not None:
            g.principal = gatekeeper.require(request, endpoint.permission)
            whole = request._get_current_object()  # type: ignore[attr-defined]
            g.still_admitted = gatekeeper.still(whole, endpoint.permission)
            allow_slow_client(request.environ)
        principal = g.get("principal")
        act_as(actor_of(endpoint, path, principal, g.request_id, services.clock.now()))
        inputs: dict[str, Any] = dict(path)
        if not endpoint.picture:
            query = read_query(request, endpoint.query)
            if query is not None:
                inputs["query"] = query
        if endpoint.body is not None and not endpoint.raw_body:
            inputs["body"] = read_body(request, endpoint.body, picture=endpoint.picture)
            also = endpoint.also(inputs["body"])
            if also is not None:
                g.principal.require(also)
        with pictures.turn(inputs.get("body")):
            answer = endpoint.handle(**inputs)
        each = services.settings.audit_searches == "each"
        tell_access(services.access, endpoint, path, inputs.get("query"), each_search=each)
        if isinstance(answer, BaseModel):
            return Response(
                answer.model_dump_json(), status=endpoint.status, mimetype="application/json"
            )
        if not isinstance(answer, Response):
            raise TypeError(f"{endpoint.name} answered a {type(answer).__name__}")
        return answer

    return view


def _warmed(services: Services) -> Callable[[], bool]:
    done = threading.Event()

    def load() -> None:
        try:
            services.galleries.warm()
        except MusterError:
            log.exception("the galleries cannot be loaded; each search tries again")
        done.set()

    threading.Thread(target=load, name="warm", daemon=True).start()
    return done.is_set


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else new_id()
    g.started_s = time.monotonic()
    act_as(Actor())
    page = not request.path.startswith("/v1/")
    if request.method == "POST" and (page or request.path == _OPEN_TO_ALL):
        # What needs no key in a header is small and has come as a whole before a thread is asked:
        # a thread waits only for clients with a key (see `match_server.process.client_socket`).
        request.max_content_length = _OPEN_BYTES
        if request.content_length is None and request.headers.get("Transfer-Encoding"):
            raise MalformedInput("send the body with its length (Content-Length), not in chunks")


def _finish(response: Response, metrics: Metrics) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    response.call_on_close(lambda: act_as(Actor()))  # what is streamed is written before that
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-store")
    if request.is_secure:  # a year; a browser that came by TLS once does not come without again
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    # The rule, not the path: ids may be names of people. Never the query, the body or a header.
    rule = request.url_rule.rule if request.url_rule is not None else "(none)"
    took_s = time.monotonic() - g.started_s
    metrics.request(rule, request.method, response.status_code, took_s)
    log.info(
        "request",
        extra={
            "request_id": g.request_id,
            "method": request.method,
            "rule": rule,
            "status": response.status_code,
            "ms": round(took_s * 1000, 1),
            "key": g.get("key_id"),
        },
    )
    return response
