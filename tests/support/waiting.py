"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

TIMEOUT_S = 60.0  # long enough for the slowest machine: a test that passes never waits so long

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    what: str,
    timeout_s: float = TIMEOUT_S,
    *,
    poll_s: float = 0.05,
    details: Callable[[], str] | None = None,
) -> T:
    """Polls `condition` until it returns a true value, and returns that value.

    Raises AssertionError after `timeout_s`; its message has `what` and the text of `details`.
    """
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            text = f"Waited {timeout_s:g} s for this: {what}"
            raise AssertionError(text if details is None else f"{text}\n{details()}")
        time.sleep(poll_s)
    return value


def end_of(log: Path) -> str:
    """Returns the last 3,000 characters of a log file, for a failure message."""
    return log.read_text()[-3000:]
