"""Notifications to systemd from a service of `Type=notify` (sd_notify(3))."""

import contextlib
import os
import socket
import time
from typing import Final

_SHARE: Final = 3  # words in each interval that systemd grants: one or two may come late


class Watchdog:
    """Reports to systemd that the service works. Call `alive` at least twice a second.

    Call it from the loop that must not hang: then a loop that hangs stops the reports.
    """

    def __init__(self) -> None:
        self._every_s = _granted_s()
        self._notified_s = -1e9

    def alive(self) -> None:
        """Reports that the loop runs, if a report is due."""
        now_s = time.monotonic()
        if self._every_s is not None and now_s - self._notified_s >= self._every_s:
            self._notified_s = now_s
            notify("WATCHDOG=1")


def notify(state: str) -> None:
    """Sends a state such as `READY=1` or `STOPPING=1`; does nothing without systemd."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # a name outside the file system
        address = "\0" + address[1:]
    # A service must not end because nobody hears it.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto(state.encode(), address)


def _granted_s() -> float | None:
    """Returns the interval of the reports; None if systemd does not expect any."""
    try:
        granted_s = int(os.environ["WATCHDOG_USEC"]) / 1e6
        watchdog_pid = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return granted_s / _SHARE if granted_s > 0 and watchdog_pid == os.getpid() else None
