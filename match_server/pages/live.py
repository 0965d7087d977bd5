"""The pages: the live page, the login, and the documentation of the API. All from this machine."""

from collections.abc import Callable, Mapping
from typing import Any

from flask import (
    Blueprint,
    Response,
    jsonify,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from match_server.api.auth import COOKIE, EDITING_COOKIE, Gatekeeper, require_own_page
from match_server.api.cached_response import CachedResponse
from match_server.api.errors import http_error, status_of
from match_server.container import Services
from match_server.pages.calibration import add_calibration_page
from match_server.pages.cookies import give_cookie, take_cookie
from match_server.pages.devices import add_device_pages
from match_server.pages.events import add_event_pages
from match_server.pages.filters import clock_time, day_time, in_words
from match_server.pages.people import add_people_pages
from match_server.schemas.events import EventQuery
from match_server.services.auth.page_sessions import SESSION_S
from shared.clock import rfc3339
from shared.commands import shown
from shared.errors import Forbidden, MusterError, RateLimited, Unauthenticated
from shared.reasons import in_plain_terms

_SHOWN = 60  # sightings on the page
_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

Document = Callable[[], Mapping[str, Any]]


def pages(services: Services, gatekeeper: Gatekeeper, document: Document) -> Blueprint:
    """The blueprint of all pages. `document` gives the OpenAPI document."""
    blueprint = Blueprint(
        "pages",
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/static",
    )
    for words in (clock_time, day_time, in_plain_terms, shown):
        blueprint.add_app_template_filter(words, words.__name__)
    blueprint.register_error_handler(MusterError, _problem)

    @blueprint.before_request
    def from_own_page() -> None:
        if request.method == "POST":
            require_own_page(request, services.settings.public_url)

    blueprint.after_request(_protect)
    blueprint.app_errorhandler(404)(_nowhere)

    def standing_now() -> dict[str, Any]:
        """How many are enrolled, and every camera that was ever heard of."""
        persons = services.events.persons(services.clock.now())
        return {"persons": persons, **services.presence.now().model_dump(mode="json")}

    @blueprint.get("/standing.json")
    def standing() -> AnyResponse:
        if gatekeeper.viewer(request) is None:
            raise Unauthenticated("sign in at /login")
        return jsonify(standing_now())

    @blueprint.get("/")
    def live() -> AnyResponse:
        visitor = gatekeeper.viewer(request)
        if visitor is None:
            return redirect(url_for("pages.login"))
        events = services.events.page(EventQuery(size=_SHOWN)).items
        return make_response(
            render_template(
                "live.html",
                events=events,
                initial=[event.model_dump(mode="json") for event in events],
                standing=standing_now(),
                now=rfc3339(services.clock.now()),
                by_key=visitor.key_id != "open-page",
            )
        )

    @blueprint.route("/login", methods=["GET", "POST"])
    def login() -> AnyResponse:
        if request.method == "GET":
            return make_response(render_template("login.html", error=None))
        try:
            session = gatekeeper.session_for(request, request.form.get("key", "").strip())
        except (Unauthenticated, Forbidden, RateLimited) as error:
            page = render_template("login.html", error=in_words(error))
            refused = make_response(page, status_of(error))
            if isinstance(error, RateLimited):
                refused.headers["Retry-After"] = str(error.details["retry_after_s"])
            return refused
        response = redirect(url_for("pages.live"), code=303)
        give_cookie(response, COOKIE, session, SESSION_S)
        return response

    @blueprint.post("/logout")
    def logout() -> AnyResponse:
        gatekeeper.sign_out(request)
        response = redirect(url_for("pages.login"), code=303)
        for cookie in (COOKIE, EDITING_COOKIE):
            take_cookie(response, cookie)
        return response

    add_calibration_page(blueprint, services, gatekeeper)

    def documentation() -> Response:
        page = render_template(
            "docs.html", api=document(), resolve=_resolver, calls_by_tag=_calls_by_tag
        )
        return make_response(page)

    blueprint.add_url_rule("/docs", "docs", CachedResponse(documentation), methods=["GET"])

    add_device_pages(blueprint, services, gatekeeper)
    add_event_pages(blueprint, services, gatekeeper)
    add_people_pages(blueprint, services, gatekeeper)
    return blueprint


def _problem(error: MusterError) -> AnyResponse:
    """An error as a page: who opened an address in a browser reads no JSON."""
    return make_response(render_template("problem.html", message=in_words(error)), status_of(error))


def _nowhere(error: HTTPException) -> AnyResponse:
    """An address that there is not: a page for browsers, JSON for programs."""
    kinds = request.accept_mimetypes
    browser = kinds.best_match(("application/json", "text/html")) == "text/html"
    if request.path.startswith("/v1/") or not browser:
        return http_error(error)
    message = f"There is no page at {request.path}."
    return _protect(make_response(render_template("problem.html", message=message), 404))


def _protect(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Referrer-Policy"] = "same-origin"  # else our own forms name no origin
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Permissions-Policy"] = "camera=(), microphone=(), geolocation=()"
    return response


def _calls_by_tag(api: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, Any]]]]:
    """Method, path and description of every call, under its tag."""
    found: dict[str, list[tuple[str, str, Any]]] = {}
    for path, methods in api["paths"].items():
        for method, call in methods.items():
            found.setdefault(call["tags"][0], []).append((method, path, call))
    return list(found.items())


def _resolver(api: Mapping[str, Any], schema: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Name and fields of a schema that may be a reference, for the documentation page."""
    reference = str(schema.get("$ref", ""))
    if not reference and "oneOf" in schema:
        reference = str(schema["oneOf"][0].get("$ref", ""))
    name = reference.rpartition("/")[2]
    found: Mapping[str, Any] = api["components"]["schemas"].get(name, schema)
    return name, found.get("properties", {})
