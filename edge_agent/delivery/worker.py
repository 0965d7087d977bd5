"""Delivery: sends the probes of the outbox until the server has confirmed them."""

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

_WINDOW: Final = 32  # probes sent at a time
_WINDOW_BYTES: Final = 1024 * 1024
_IDLE_S: Final = 2.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 60.0
_REFUSED_PAUSE_S: Final = 15.0


class Delivery:
    """One thread that sends the probes of one outbox over one transport, oldest first.

    It logs a failure once, and once more when delivery works again; in between it tries again with
    growing, jittered pauses.
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
        self._removed = threading.Condition()  # notified when probes left the outbox
        self._wake = threading.Condition()  # guards the three flags below
        self._fresh = False  # the outbox has new probes
        self._transport_ready = False  # the transport has receipts, or is connected again
        self._stopping = False
        self._failures = 0
        self._blocked = False  # the last attempt failed
        self._complaint: str | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    @property
    def complaint(self) -> str | None:
        """Why nothing can be delivered at the moment; None while it works."""
        return self._complaint

    @property
    def failure(self) -> Exception | None:
        """The error that ended the thread; None while it runs or was stopped."""
        return self._failure

    def start(self) -> None:
        self._outbox.observe(self._on_new_probes)
        if self._tracks is not None:
            self._tracks.observe(self._on_new_probes)
        self._transport.open(self._on_transport_ready)
        self._thread.start()

    def drained(self, timeout_s: float) -> bool:
        """Waits until the outbox is empty; returns False where `timeout_s` is too short."""
        with self._removed:
            return self._removed.wait_for(self._is_empty_or_broken, timeout_s) and self._is_empty()

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread and closes the transport; undelivered probes stay in the outbox.

        It takes at most one and a half times `timeout_s`. Returns False when the thread still
        waits for the other end after that.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout_s)
        began_s = self._clock.monotonic_s()
        self._transport.close(timeout_s / 2)  # ends a running exchange where the transport can
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
        except Exception as error:  # the agent reads it and ends
            log.exception("Delivery failed")
            self._failure = error
            self._notify()

    def _deliver(self) -> None:
        while not self._stopping:
            pause_s = self._step()
            if not self._blocked:  # else the messages wait until they expire
                self._send_tracks()
            with self._wake:
                self._wake.wait_for(self._must_continue, pause_s)
                self._fresh = self._transport_ready = False
        if not self._blocked:
            self._send_tracks()

    def _must_continue(self) -> bool:
        # New probes do not shorten a pause after a failure; only the transport itself does.
        new_probes = self._complaint is None and self._fresh
        return self._stopping or self._transport_ready or new_probes

    def _step(self) -> float:
        """Sends one batch; returns how many seconds to wait before the next."""
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
            log.warning("The %s accepts probes again", self._transport.name)
        self._complaint, self._failures = None, 0
        if not receipts:
            return _IDLE_S
        self._notify()
        return 0.0

    def _send_tracks(self) -> None:
        """Sends who came and who left: once, after the probes."""
        while self._tracks is not None and (messages := self._tracks.take()):
            try:
                self._transport.send_tracks(messages)
            except (Unavailable, Unauthenticated, Forbidden) as error:
                log.debug("Dropped %d track messages: %s", len(messages), error.message)
                self._tracks.lost(len(messages))
                return

    def _failed(self, error: Unavailable | Unauthenticated | Forbidden) -> float:
        self._blocked = True
        self._failures += 1
        if self._complaint != error.message and not self._stopping:
            log.error("%s; %s", sentence(error.message), self._backlog())
        self._complaint = error.message
        at_least_s = 0.0 if isinstance(error, Unavailable) else _REFUSED_PAUSE_S
        pause_s = self._backoff.pause_s(self._failures, at_least_s=at_least_s)
        return max(retry_after_s(error), pause_s)

    def _backlog(self) -> str:
        try:
            return f"{self._outbox.counts().waiting} probes wait in the outbox"
        except Unavailable as error:  # the disk itself may have failed
            return error.message

    def _on_new_probes(self) -> None:
        with self._wake:
            self._fresh = True
            self._wake.notify()

    def _on_transport_ready(self) -> None:
        with self._wake:
            self._transport_ready = True
            self._wake.notify()

    def _notify(self) -> None:
        with self._removed:
            self._removed.notify_all()
