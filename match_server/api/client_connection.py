"""The connection of a request, as far as our own HTTP worker lets the application reach it.

Under another WSGI server there is none; then each function returns what is right without it.
"""

import select
from collections.abc import Callable, Mapping
from typing import Any, Protocol


class ListeningSocket(Protocol):
    def getsockname(self) -> Any:
        """The address and port of this machine to which the client has connected."""
        ...


class ClientConnection(Protocol):
    """The part of the worker's socket that the application uses."""

    raw: ListeningSocket

    def takes(self) -> bool:
        """Whether a small piece can be sent now without waiting."""
        ...

    def allow_waiting(self) -> None:
        """Let the thread of this request wait for its client."""
        ...

    def notice_silence(self) -> None:
        """Let the connection end when the client confirms no data any more."""
        ...

    def call_after(self, work: Callable[[], None]) -> None:
        """Call `work` in this thread when it has made the response of this request."""
        ...

    def fileno(self) -> int: ...


def can_take(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """A function that says whether a piece can be sent to the client without waiting."""
    connection = _connection(environ)
    return (lambda: True) if connection is None else connection.takes


def allow_slow_client(environ: Mapping[str, Any]) -> None:
    """Let the thread of this request wait for its client, which has sent a valid key."""
    connection = _connection(environ)
    if connection is not None:
        connection.allow_waiting()


def call_after_response(environ: Mapping[str, Any], work: Callable[[], None]) -> None:
    """Do work that the client need not wait for: when the response is sent, else now."""
    connection = _connection(environ)
    if connection is None:
        work()
    else:
        connection.call_after(work)


def notice_silence(environ: Mapping[str, Any]) -> None:
    """Let the connection of this request end when the client's machine falls silent."""
    connection = _connection(environ)
    if connection is not None:
        connection.notice_silence()


def server_address(environ: Mapping[str, Any]) -> tuple[str, int]:
    """The address and port of this machine to which the client has connected."""
    connection = _connection(environ)
    if connection is None:
        return environ["SERVER_NAME"], int(environ["SERVER_PORT"])
    host, port = connection.raw.getsockname()[:2]
    return host.removeprefix("::ffff:"), port


def is_closed(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """A function that says, without waiting, whether the client has closed the connection."""
    connection = _connection(environ)
    if connection is None:
        return lambda: False
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return lambda: bool(poll.poll(0))


def _connection(environ: Mapping[str, Any]) -> ClientConnection | None:
    return environ.get("gunicorn.socket")
