"""Parking: how the application tells the HTTP worker that a request waits without a thread.

When a request has to wait, it is parked: its thread handles other requests, and the worker keeps
the connection. When the wait is over, a request without a response yet is handled again from the
beginning, and a streamed response continues where it stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

PARKING = "muster.parking"
"""Key of a `Parking` in the WSGI environment; absent where requests wait in their threads."""


class Wait(Protocol):
    """The condition that a parked request waits for."""

    def start(self, wake: Callable[[], None]) -> None:
        """Call `wake` at least once, from any thread, when the wait is over."""
        ...

    def cancel(self) -> None:
        """Stop waiting: the request has ended, and `wake` need not be called any more."""
        ...


@dataclass(frozen=True, slots=True)
class Parking:
    """The state of a request, as the worker gives it to the application."""

    room: bool  # the worker has room to park the request
    woken: bool  # the request was parked before, and its wait is over


class Parked(BaseException):
    """Parks a request: raised before its response begins, or yielded in a streamed response.

    It is not an Exception, so that no handler of errors catches it on its way to the worker.
    """

    def __init__(self, wait: Wait) -> None:
        super().__init__("the request waits")
        self.wait = wait
