"""Requests that wait without a thread: what the application and the worker say to each other.

A request that has to wait is parked: its thread is free for others, the worker keeps the
connection, and continues when the wait is over. A request without an answer begins again from
its first line; a streamed answer continues where it was.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

PARKING = "muster.parking"
"""Key of a `Parking` in the WSGI environment; absent where requests wait in their threads."""


class Wait(Protocol):
    """What a parked request waits for."""

    def start(self, wake: Callable[[], None]) -> None:
        """Call `wake` at least once, from any thread, when the wait is over."""
        ...

    def cancel(self) -> None:
        """The request has gone: `wake` need not be called any more."""
        ...


@dataclass(frozen=True, slots=True)
class Parking:
    """What the worker offers to one request."""

    room: bool  # whether the request may be parked
    woken: bool  # whether it was parked before, and that wait is over


class Parked(BaseException):
    """Parks a request: raised before its answer begins, or yielded in a streamed answer.

    It is no Exception: nothing on the way to the worker takes it for a failure.
    """

    def __init__(self, wait: Wait) -> None:
        super().__init__("the request waits")
        self.wait = wait
