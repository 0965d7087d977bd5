"""What is answered while the client still sends: passed on as it takes it, kept until it does.

Most HTTP clients read nothing before they have sent everything. Were each piece of the answer
pressed upon such a client, it would wait for us to read and we for it, until one gave up.
"""

import select
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from match_server.process.client_socket import ClientSocket

_MEMORY_BYTES = 1024 * 1024
MOST_BYTES = 1024 * 1024 * 1024
"""Kept at most: some four million verdicts. Then the client has to take them, or is cut off."""
_PIECE_BYTES = 4 * 1024  # fits where the kernel says that there is room, with any network card
_LAST_BYTES = 64 * 1024


def passed_on(
    pieces: Iterable[bytes], takes: Callable[[], bool], folder: Path, most_bytes: int = MOST_BYTES
) -> Iterator[bytes]:
    """The bytes of the pieces in order; while more are to come, only when the client `takes` them.

    What waits lies in memory, beyond 1 MiB in a file in `folder` that has no name and is gone with
    the request. Nothing is dropped: beyond `most_bytes` all is given out, taken or not.
    """
    with tempfile.SpooledTemporaryFile(_MEMORY_BYTES, dir=str(folder)) as kept:
        given = 0
        for piece in pieces:
            kept.seek(0, 2)
            kept.write(piece)
            end = kept.tell()
            while given < end and (end > most_bytes or takes()):
                kept.seek(given)
                some = kept.read(_PIECE_BYTES)
                given += len(some)
                yield some
            if given == end:
                given = 0
                kept.seek(0)
                kept.truncate()
        kept.seek(given)
        while some := kept.read(_LAST_BYTES):
            yield some


def client_takes(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """Asks the connection of a request whether a piece can be sent without waiting.

    Where the server does not say which connection it is (ours does), it always can.
    """
    connection: ClientSocket | None = environ.get("gunicorn.socket")
    return (lambda: True) if connection is None else connection.takes


def client_may_be_slow(environ: Mapping[str, Any]) -> None:
    """Let the thread of this request wait for its client: for one with a key."""
    connection: ClientSocket | None = environ.get("gunicorn.socket")
    if connection is not None:
        connection.allow_waiting()


def notice_silence(environ: Mapping[str, Any]) -> None:
    """Let the connection of this request end when the client's machine falls silent."""
    connection: ClientSocket | None = environ.get("gunicorn.socket")
    if connection is not None:
        connection.notice_silence()


def server_address(environ: Mapping[str, Any]) -> tuple[str, int]:
    """The address and port of this machine to which the client has connected."""
    connection: ClientSocket | None = environ.get("gunicorn.socket")
    if connection is None:
        return environ["SERVER_NAME"], int(environ["SERVER_PORT"])
    host, port = connection.raw.getsockname()[:2]
    return host.removeprefix("::ffff:"), port


def client_gone(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """Asks the connection of a request whether the client has closed it, without waiting."""
    connection = environ.get("gunicorn.socket")
    if connection is None:
        return lambda: False
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return lambda: bool(poll.poll(0))
