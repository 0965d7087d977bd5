"""The blueprint of all pages: who may see them, their headers, and their errors."""

from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, g, make_response, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from match_server.api.auth import Gatekeeper, require_own_page
from match_server.api.errors import http_error, status_of
from match_server.container import Services
from match_server.pages.calibration import add_calibration_page
from match_server.pages.devices import add_device_pages
from match_server.pages.docs import add_documentation
from match_server.pages.events import add_event_pages
from match_server.pages.filters import as_sentence, clock_time, day_time
from match_server.pages.live import add_live_page
from match_server.pages.login import add_login
from match_server.pages.people import add_people_pages
from shared.commands import shown
from shared.errors import MusterError
from shared.reasons import PHOTO_TERMS, in_plain_terms

_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_WITHOUT_LOGIN = {
    f"pages.{name}" for name in ("static", "chart_style", "docs", "login", "logout", "standing")
} | {"pages.stop_editing", "pages.decide"}
"""`standing` returns an error to scripts; `decide` and `stop_editing` need the editing cookie."""


def pages(
    services: Services, gatekeeper: Gatekeeper, document: Callable[[], Mapping[str, Any]]
) -> Blueprint:
    """Returns the blueprint of all pages. `document` returns the OpenAPI document."""
    blueprint = Blueprint(
        "pages",
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/static",
    )
    for function in (clock_time, day_time, in_plain_terms, shown):
        blueprint.add_app_template_filter(function, function.__name__)
    blueprint.register_error_handler(MusterError, _problem)
    blueprint.after_request(_protect)
    blueprint.app_errorhandler(404)(_missing_page)

    @blueprint.before_request
    def guard() -> AnyResponse | None:
        """Redirects visitors without a session to the login, and refuses forms of other sites."""
        if request.method == "POST":
            require_own_page(request, services.settings.public_url)
        if request.endpoint == "pages.static":
            return None
        g.viewer = gatekeeper.viewer(request)
        g.editor = gatekeeper.editor(request)
        if g.viewer is None and request.endpoint not in _WITHOUT_LOGIN:
            return redirect(url_for("pages.login"))
        return None

    @blueprint.context_processor
    def shared_values() -> dict[str, Any]:
        viewer = g.get("viewer")
        return {
            "by_key": viewer is not None and viewer.key_id != "open-page",
            "editing": g.get("editor") is not None,
            "photo_terms": PHOTO_TERMS,
        }

    add_live_page(blueprint, services)
    add_login(blueprint, gatekeeper)
    add_documentation(blueprint, document)
    add_calibration_page(blueprint, services)
    add_device_pages(blueprint, services, gatekeeper)
    add_event_pages(blueprint, services)
    add_people_pages(blueprint, services, gatekeeper)
    return blueprint


def _problem(error: MusterError) -> AnyResponse:
    """Returns an error as a page, for a person who opened an address in a browser."""
    page = render_template("problem.html", message=as_sentence(error))
    return make_response(page, status_of(error))


def _missing_page(error: HTTPException) -> AnyResponse:
    """Returns a page to browsers and JSON to programs."""
    kinds = request.accept_mimetypes
    browser = kinds.best_match(("application/json", "text/html")) == "text/html"
    if request.path.startswith("/v1/") or not browser:
        return http_error(error)
    message = f"There is no page at {request.path}."
    return _protect(make_response(render_template("problem.html", message=message), 404))


def _protect(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Referrer-Policy"] = "same-origin"  # else the forms here name no origin
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Permissions-Policy"] = "camera=(), microphone=(), geolocation=()"
    return response
