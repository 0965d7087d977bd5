"""Delivery: offers what the outbox holds to the server until the server has answered for it."""

import logging
import random
import threading
from typing import Final

from edge_agent.delivery.transport import Transport
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.track_events import TrackQueue
from shared.backoff import Backoff, retry_after_s
from shared.clock import Clock, SystemClock
from shared.errors import Forbidden, Unauthenticated, Unavailable
from shared.wording import sentence

log = logging.getLogger(__name__)

_WINDOW: Final = 32  # probes offered at a time
_WINDOW_BYTES: Final = 1024 * 1024
_IDLE_S: Final = 2.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 60.0
_TURNED_AWAY_PAUSE_S: Final = 15.0


class Delivery:
    """One thread between one outbox and one transport.

    It offers the oldest probes in order. What goes wrong on the way is said once, in one line, and
    once more when it works again; in between it tries with growing, jittered pauses.
    """

    def __init__(
        self,
        outbox: Outbox,
        transport: Transport,
        tracks: TrackQueue | None = None,
        *,
        clock: Clock | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self._outbox = outbox
        self._transport = transport
        self._tracks = tracks
        self._clock = clock or SystemClock()
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, jitter=jitter)
        self._moved = threading.Condition()  # notified when probes left the outbox
        self._called = threading.Condition()  # guards the three flags below
        self._fresh = False  # the outbox has something new
        self._road_free = False  # the transport has receipts, or is connected again
        self._stopping = False
        self._failures = 0
        self._blocked = False  # the last attempt failed
        self._complaint: str | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    @property
    def complaint(self) -> str | None:
        """Why nothing can be delivered at the moment; None when all is well."""
        return self._complaint

    @property
    def failure(self) -> Exception | None:
        """What ended the thread though nobody told it to stop; None while all is well."""
        return self._failure

    def start(self) -> None:
        self._outbox.observe(self._call_fresh)
        if self._tracks is not None:
            self._tracks.observe(self._call_fresh)
        self._transport.open(self._call_road_free)
        self._thread.start()

    def drained(self, timeout_s: float) -> bool:
        """Waits until the outbox is empty; whether it became so within `timeout_s`."""
        with self._moved:
            return self._moved.wait_for(self._is_empty_or_broken, timeout_s) and self._is_empty()

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread and closes the transport; what is not delivered stays in the outbox.

        It takes `timeout_s` and half as long again at most. False when the thread still waits
        for the far end after that.
        """
        with self._called:
            self._stopping = True
            self._called.notify()
        self._thread.join(timeout_s)
        began_s = self._clock.monotonic_s()
        self._transport.close(timeout_s / 2)  # ends an exchange where the road can
        self._thread.join(max(0.0, began_s + timeout_s / 2 - self._clock.monotonic_s()))
        return not self._thread.is_alive()

    def _is_empty_or_broken(self) -> bool:
        return self._failure is not None or self._is_empty()

    def _is_empty(self) -> bool:
        counts = self._outbox.counts()
        return counts.waiting == 0 and counts.held == 0

    def _run(self) -> None:
        try:
            self._deliver()
        except Exception as error:  # the agent looks for it, and ends rather than go on in silence
            log.exception("Delivery is broken")
            self._failure = error
            self._notify()

    def _deliver(self) -> None:
        while not self._stopping:
            pause_s = self._step()
            if not self._blocked:  # else they wait for as long as they are news
                self._send_tracks()
            with self._called:
                self._called.wait_for(self._is_called, pause_s)
                self._fresh = self._road_free = False
        if not self._blocked:
            self._send_tracks()

    def _is_called(self) -> bool:
        # New probes do not cut a pause short that the far end needs; only its own call does.
        heeds_fresh = self._complaint is None
        return self._stopping or self._road_free or (heeds_fresh and self._fresh)

    def _step(self) -> float:
        """Offers one batch; answers how long to wait for something to happen, in seconds."""
        self._blocked = False
        try:
            self._outbox.retry()
            batch = self._outbox.pending(_WINDOW, _WINDOW_BYTES)
            if not batch:
                self._notify()
                return _IDLE_S
            receipts = self._transport.exchange(batch)
            self._outbox.settle(receipts)
        except (Unavailable, Unauthenticated, Forbidden) as error:
            return self._failed(error)
        if self._complaint is not None:
            log.warning("The %s takes probes again", self._transport.name)
        self._complaint, self._failures = None, 0
        if not receipts:
            return _IDLE_S
        self._notify()
        return 0.0

    def _send_tracks(self) -> None:
        """Says who came and who left: after the probes, once, and never in their way."""
        while self._tracks is not None and (messages := self._tracks.take()):
            try:
                self._transport.send_tracks(messages)
            except (Unavailable, Unauthenticated, Forbidden) as error:
                log.debug("%d changes in view are not told: %s", len(messages), error.message)
                self._tracks.lost(len(messages))
                return

    def _failed(self, error: Unavailable | Unauthenticated | Forbidden) -> float:
        self._blocked = True
        self._failures += 1
        if self._complaint != error.message and not self._stopping:
            log.error("%s; %s", sentence(error.message), self._what_waits())
        self._complaint = error.message
        at_least_s = 0.0 if isinstance(error, Unavailable) else _TURNED_AWAY_PAUSE_S
        pause_s = self._backoff.pause_s(self._failures, at_least_s=at_least_s)
        return max(retry_after_s(error), pause_s)

    def _what_waits(self) -> str:
        try:
            return f"{self._outbox.counts().waiting} probes wait in the outbox"
        except Unavailable as error:  # the disk itself may be the trouble
            return error.message

    def _call_fresh(self) -> None:
        with self._called:
            self._fresh = True
            self._called.notify()

    def _call_road_free(self) -> None:
        with self._called:
            self._road_free = True
            self._called.notify()

    def _notify(self) -> None:
        with self._moved:
            self._moved.notify_all()
