"""Answers that are given over a long time end when their client may no longer ask."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from shared.errors import MusterError

Piece = TypeVar("Piece")


def while_admitted(pieces: Iterator[Piece], still: Callable[[], None]) -> Iterator[Piece]:
    """The pieces; `still` is called before each is given, and ends them by raising."""
    for piece in pieces:
        try:
            still()
        except MusterError:
            return
        yield piece
