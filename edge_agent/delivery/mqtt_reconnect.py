"""Pauses before an MQTT client connects again."""

import logging
import math
import random
from collections import deque
from typing import Final

import paho.mqtt.client as paho
from paho.mqtt.reasoncodes import ReasonCode

from shared.clock import Clock

log = logging.getLogger(__name__)

_MAX_PAUSE_S: Final = 30.0
_SHORT_S: Final = 5.0  # a connection that ends sooner is closed by the broker on purpose
_MAX_SHORT: Final = 3  # short connections within that time: most likely two devices have one name
_WITHIN_S: Final = 600.0
_SHORT_PAUSE_S: Final = 60.0
_LOG_AGAIN_S: Final = 3600.0
_SESSION_TAKEN_OVER: Final = 0x8E  # MQTT 5.0, 3.14.2.1: DISCONNECT "Session taken over"


class ReconnectPauses:
    """Sets the pauses of a client; longer ones where the broker closes each connection at once."""

    def __init__(self, device: str, clock: Clock) -> None:
        self._device = device
        self._clock = clock
        self._connected_s = -math.inf  # when the newest connection was made
        self._short: deque[float] = deque(maxlen=_MAX_SHORT)  # when short connections ended
        self._log_again_s = -math.inf

    def connected(self) -> None:
        self._connected_s = self._clock.monotonic_s()

    def disconnected(self, client: paho.Client, reason: ReasonCode, name: str) -> None:
        now_s = self._clock.monotonic_s()
        if reason.value == _SESSION_TAKEN_OVER or now_s - self._connected_s < _SHORT_S:
            self._short.append(now_s)
        if len(self._short) < _MAX_SHORT or now_s - self._short[0] > _WITHIN_S:
            self.reset(client)
            return
        _set_pauses(client, _SHORT_PAUSE_S, 2 * _SHORT_PAUSE_S)
        if now_s >= self._log_again_s:
            self._log_again_s = now_s + _LOG_AGAIN_S
            log.error(
                "The %s closes each connection soon after it was made, as it does when two boxes "
                "have one name: give each a `device` name of its own (this one is %r)",
                name,
                self._device,
            )

    def reset(self, client: paho.Client) -> None:
        _set_pauses(client, 1.0, _MAX_PAUSE_S)


def _set_pauses(client: paho.Client, first_s: float, max_s: float) -> None:
    """Adds jitter: devices that lost their broker together must not all return together."""
    # The client doubles the first delay. It accepts fractions, though it is typed as whole seconds.
    first_s *= random.uniform(0.5, 1.5)  # noqa: S311
    max_s = max(first_s, max_s * random.uniform(0.5, 1.0))  # noqa: S311
    client.reconnect_delay_set(first_s, max_s)  # type: ignore[arg-type]
