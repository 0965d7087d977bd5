"""Answers to what never reaches the application, in the one form that every error has."""

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
        "of Expect only 100-continue is understood",
    ),
    errors.UnsupportedTransferCoding: (
        HTTPStatus.NOT_IMPLEMENTED,
        "unsupported_transfer_coding",
        "of Transfer-Encoding only chunked is understood",
    ),
}
_OF_THE_APPLICATION = (
    errors.ConfigurationProblem,
    errors.InvalidResponseHeader,
    errors.InvalidResponseHeaderName,
)


def refusal(error: Exception) -> tuple[HTTPStatus, bytes]:
    """The whole answer to a request that gunicorn could not read; 500 where it was not at fault."""
    for kind, (status, code, message) in _KNOWN.items():
        if isinstance(error, kind):
            return status, _answer(status, code, message)
    if isinstance(error, errors.ParseException) and not isinstance(error, _OF_THE_APPLICATION):
        status = HTTPStatus.BAD_REQUEST
        return status, _answer(status, "malformed", f"this is not HTTP as it is read here: {error}")
    status, internal = HTTPStatus.INTERNAL_SERVER_ERROR, InternalError()
    return status, _answer(status, internal.code, internal.message)


def head_too_large() -> bytes:
    """The answer to a request whose head does not end."""
    return refusal(errors.LimitRequestHeaders("the head does not end"))[1]


def too_late() -> bytes:
    """The answer to a request that is not complete in time."""
    message = "the request did not come to its end in time"
    return _answer(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", message)


def _answer(status: HTTPStatus, code: str, message: str) -> bytes:
    body = ErrorBody(code=code, message=message, request_id="").model_dump_json().encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
