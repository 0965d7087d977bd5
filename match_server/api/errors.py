"""The table from errors to HTTP statuses, and the error response that all of them have."""

import logging

from flask import Flask, Response, current_app, g, jsonify, request
from gunicorn.http.errors import NoMoreData, ParseException  # type: ignore[import-untyped]
from werkzeug.exceptions import HTTPException

from match_server.schemas.base import ErrorBody
from shared import errors
from shared.files import unwritable

log = logging.getLogger(__name__)

_STATUS: dict[type[errors.MusterError], int] = {
    errors.MalformedInput: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.RequestTimeout: 408,
    errors.Conflict: 409,
    errors.SnapshotNeeded: 410,
    errors.TooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.Unusable: 422,
    errors.RateLimited: 429,
    errors.Unavailable: 503,
    errors.PackError: 503,
}
_RETRY_AFTER_S = 2


def status_of(error: errors.MusterError) -> int:
    """The HTTP status of an error: that of the nearest class in the table, else 500."""
    for cls in type(error).__mro__:
        if cls in _STATUS:
            return _STATUS[cls]
    return 500


def register_errors(app: Flask) -> None:
    """Make every error of `app` an error response."""
    app.register_error_handler(errors.MusterError, _known)
    app.register_error_handler(HTTPException, http_error)
    for error_class in (ParseException, NoMoreData):
        app.register_error_handler(error_class, _broken_body)
    app.register_error_handler(OSError, _os_error)
    app.register_error_handler(Exception, _unexpected)


def _known(error: errors.MusterError) -> Response:
    status = status_of(error)
    if status == 500:
        log.error("Unexpected error", exc_info=error)
    response = _response(status, error.code, error.message, error.details)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="muster"'
    if status in (429, 503):
        response.headers["Retry-After"] = str(error.details.get("retry_after_s", _RETRY_AFTER_S))
    return response


def http_error(error: HTTPException) -> Response:
    """The response to what Flask itself refuses: unknown path, wrong method, body too large."""
    status = error.code or 500
    code, message = {
        400: ("malformed", "the request cannot be read"),
        404: ("not_found", "there is no such address; /docs lists those there are"),
        405: ("method_not_allowed", "the address exists, but not with this method"),
        413: ("too_large", "the body is larger than this server accepts"),
        415: ("unsupported_media", "the body is of a kind that is not read here"),
    }.get(status, ("http_error", error.description or error.name))
    response = _response(status, code, message, {})
    for name, value in error.get_headers():
        if name in ("Allow", "Location", "Retry-After"):
            response.headers[name] = value
    exact = _methods_of(request.path)
    if status == 405 and exact:
        response.headers["Allow"] = ", ".join(sorted(exact))
    return response


def _methods_of(path: str) -> set[str]:
    """The methods of the rule that equals a path; rules with placeholders do not count."""
    rules = current_app.url_map.iter_rules()
    return {method for rule in rules if rule.rule == path for method in rule.methods or ()}


def _broken_body(_error: Exception) -> Response:
    """The response to a body that ends early, or whose chunks are invalid."""
    response = _response(400, "malformed", "the body ends early or is not in chunks as it says", {})
    response.headers["Connection"] = "close"  # where the next request begins is not known
    return response


def _os_error(error: OSError) -> Response:
    """The response to a full or read-only disk, where the error was not translated before."""
    translated = unwritable("this cannot be stored", error)
    if type(translated) is errors.Unavailable:
        return _unexpected(error)
    log.warning("Could not write a file", exc_info=error)
    return _known(translated)


def _unexpected(error: Exception) -> Response:
    log.error("Unexpected error", exc_info=error)
    internal = errors.InternalError()
    return _response(500, internal.code, internal.message, {})


def _response(status: int, code: str, message: str, details: dict) -> Response:  # type: ignore[type-arg]
    body = ErrorBody(
        code=code, message=message, details=details, request_id=g.get("request_id", "")
    )
    response = jsonify(body.model_dump(mode="json"))
    response.status_code = status
    return response
