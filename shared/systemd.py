"""What systemd wants to hear of a service of `Type=notify` (sd_notify(3)); silent without it."""

import contextlib
import os
import socket
import time
from typing import Final

_SHARE: Final = 3  # words in each interval that systemd grants: one or two may come late


class Watchdog:
    """Tells systemd that the service lives, when asked often enough: sooner than twice a second.

    It is asked from the loop that must not hang, so that silence means something.
    """

    def __init__(self) -> None:
        self._every_s = _granted_s()
        self._said_s = -1e9

    def alive(self) -> None:
        """The loop has come by again."""
        now_s = time.monotonic()
        if self._every_s is not None and now_s - self._said_s >= self._every_s:
            self._said_s = now_s
            notify("WATCHDOG=1")


def notify(state: str) -> None:
    """Say `READY=1`, `STOPPING=1` or the like; nothing where no systemd listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # a name outside the file system
        address = "\0" + address[1:]
    # A service must not end because nobody hears it.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto(state.encode(), address)


def _granted_s() -> float | None:
    """How often to speak; None where nobody waits for it."""
    try:
        granted_s = int(os.environ["WATCHDOG_USEC"]) / 1e6
        asked = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return granted_s / _SHARE if granted_s > 0 and asked == os.getpid() else None
