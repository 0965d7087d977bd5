"""Error responses to requests that never reach the application, in the form of all errors."""

from http import HTTPStatus

from gunicorn.http import errors  # type: ignore[import-untyped]

from match_server.schemas.base import ErrorBody
from shared.errors import InternalError

_KNOWN: dict[type[Exception], tuple[HTTPStatus, str, str]] = {
    errors.LimitRequestLine: (
        HTTPStatus.REQUEST_URI_TOO_LONG,
        "address_too_long",
        "the address with its query is too long",
    ),
    errors.LimitRequestHeaders: (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers_too_large",
        "the request has too many headers, or too large ones",
    ),
    errors.ExpectationFailed: (
        HTTPStatus.EXPECTATION_FAILED,
        "expectation_failed",
        "Expect: only 100-continue is supported",
    ),
    errors.UnsupportedTransferCoding: (
        HTTPStatus.NOT_IMPLEMENTED,
        "unsupported_transfer_coding",
        "Transfer-Encoding: only chunked is supported",
    ),
}
_OF_THE_APPLICATION = (
    errors.ConfigurationProblem,
    errors.InvalidResponseHeader,
    errors.InvalidResponseHeaderName,
)


def refusal(error: Exception) -> tuple[HTTPStatus, bytes]:
    """Returns status and response for a request that gunicorn could not read; 500 for a bug."""
    for kind, (status, code, message) in _KNOWN.items():
        if isinstance(error, kind):
            return status, _response(status, code, message)
    if isinstance(error, errors.ParseException) and not isinstance(error, _OF_THE_APPLICATION):
        status = HTTPStatus.BAD_REQUEST
        return status, _response(status, "malformed", f"the request is not valid HTTP: {error}")
    status, internal = HTTPStatus.INTERNAL_SERVER_ERROR, InternalError()
    return status, _response(status, internal.code, internal.message)


def head_too_large() -> bytes:
    """Returns the response to a request whose head is too long."""
    return refusal(errors.LimitRequestHeaders("the head does not end"))[1]


def too_late() -> bytes:
    """Returns the response to a request that is not complete in time."""
    message = "the request was not complete in time"
    return _response(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", message)


def _response(status: HTTPStatus, code: str, message: str) -> bytes:
    body = ErrorBody(code=code, message=message, request_id="").model_dump_json().encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
