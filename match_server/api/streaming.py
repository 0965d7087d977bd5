"""Streamed responses: how many there are at once, and that they end when access is revoked."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TypeVar

from shared.errors import MusterError, Unavailable

Piece = TypeVar("Piece")


class StreamLimit:
    """A limit to the streams of a kind that one process sends at once; others get a 503."""

    def __init__(self, max_streams: int, refusal: str) -> None:
        self._free = threading.BoundedSemaphore(max_streams)
        self._refusal = refusal

    def acquire(self) -> Callable[[], None]:
        """Count a stream; the returned function, which may be called repeatedly, ends that.

        Raises Unavailable when there are too many.
        """
        if not self._free.acquire(blocking=False):
            raise Unavailable(self._refusal)
        release = ExitStack()
        release.callback(self._free.release)
        return release.close


def while_admitted(pieces: Iterator[Piece], check: Callable[[], None]) -> Iterator[Piece]:
    """The pieces of a stream, until `check`, which is called before each piece, raises."""
    for piece in pieces:
        try:
            check()
        except MusterError:
            return
        yield piece
