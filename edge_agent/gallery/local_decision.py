"""Decisions on the device: for every probe, or only while the server cannot be reached."""

import json
import logging
import queue
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Literal, Protocol

from edge_agent.gallery.edge_gallery import LocalResult
from edge_agent.vision.probe import Probe
from shared.wire.messages import LocalDecision, LocalEventMessage
from shared.wire.template import Template

log = logging.getLogger(__name__)

Mode = Literal["off", "when_away", "always"]

_STRENGTH: Final = {"unknown": 0, "ambiguous": 1, "identified": 2}
_HOOK_TIMEOUT_S: Final = 10.0
_MAX_WAITING: Final = 64


class Decider(Protocol):
    """A gallery that decides; `edge_agent.gallery.edge_gallery.EdgeGallery`."""

    def decide(self, template: Template) -> LocalResult | None: ...


class Sink(Protocol):
    """The receiver of probes."""

    def put(self, probes: Sequence[Probe]) -> int: ...


Notify = Callable[[LocalEventMessage], None]
"""Receives an event; returns at once and never raises."""


class Recognizer:
    """Adds the device's own decision to each probe for the outbox, and sends notifications.

    The probe is on the disk before a notification, so the server gets it in any case. A later probe
    of the same track is decided again, and the new decision replaces the old one.
    """

    def __init__(
        self,
        sink: Sink,
        galleries: Sequence[Decider],
        device: str,
        decides_here: Callable[[], bool],
        notify: Sequence[Notify] = (),
    ) -> None:
        self._sink = sink
        self._galleries = galleries
        self._device = device
        self._decides_here = decides_here
        self._notify = notify
        self.decisions = 0
        self._active = False  # whether this device decides now
        self._decided: Counter[str] = Counter()  # while it is active

    def put(self, probes: Sequence[Probe]) -> int:
        self._switch(self._decides_here())
        if not self._active:
            return self._sink.put(probes)
        results = [self._decide(probe.template) for probe in probes]
        stored = self._sink.put(
            [
                replace(probe, local=None if result is None else _decision_of(result))
                for probe, result in zip(probes, results, strict=True)
            ]
        )
        for probe, result in zip(probes, results, strict=True):
            if result is not None:
                self._send(probe, result)
        return stored

    def _decide(self, template: Template) -> LocalResult | None:
        """Returns the strongest decision of all galleries."""
        decided = (gallery.decide(template) for gallery in self._galleries)
        return max(
            (result for result in decided if result is not None),
            key=lambda result: (_STRENGTH[result.decision], result.similarity or -1.0),
            default=None,
        )

    def _switch(self, active: bool) -> None:
        """Logs one line at the beginning and one at the end of the decisions on this device."""
        if active and not self._active:
            log.info("Decisions are made on this box from now on")
        elif self._active and not active:
            counts = ", ".join(f"{count} {name}" for name, count in self._decided.items())
            log.info("The server decides again; decided on this box: %s", counts or "nothing")
            self._decided.clear()
        self._active = active

    def _send(self, probe: Probe, result: LocalResult) -> None:
        self.decisions += 1
        self._decided[result.decision] += 1
        # Neither id nor name: a log is kept longer than an erased person may be.
        log.debug(
            "Camera %s: local decision %s for track %s",
            probe.camera,
            result.decision,
            probe.track_id,
        )
        message = LocalEventMessage(
            device=self._device,
            camera=probe.camera,
            track_id=probe.track_id,
            probe_id=probe.probe_id,
            captured_at=probe.captured_at,
            decided=_decision_of(result),
            name=None if result.person is None else result.person.name,
            liveness=probe.liveness,
            quality_score=probe.quality.score,
            shots=probe.shots,
        )
        for notify in self._notify:
            notify(message)


class Hook:
    """Runs the configured command for each local event, with the event as JSON on its input.

    One at a time, each for 10 s at most. At most 64 events wait; a newer one is dropped, counted.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._waiting: queue.Queue[LocalEventMessage | None] = queue.Queue(_MAX_WAITING)
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="gallery-hook", daemon=True)
        self._thread.start()

    def __call__(self, message: LocalEventMessage) -> None:
        try:
            self._waiting.put_nowait(message)
        except queue.Full:
            self.dropped += 1
            log.warning("The hook is too slow: %d local events were dropped", self.dropped)

    def close(self, timeout_s: float) -> None:
        """Ends after the waiting events, or after `timeout_s`."""
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (message := self._waiting.get()) is not None:
            try:
                done = subprocess.run(  # the configured command, never a shell
                    self._command,
                    input=json.dumps(message.model_dump(mode="json")).encode(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=_HOOK_TIMEOUT_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                log.error("The hook %s failed: %s", self._command[0], type(error).__name__)
                continue
            if done.returncode:
                log.error("The hook %s ended with status %d", self._command[0], done.returncode)


def _decision_of(result: LocalResult) -> LocalDecision:
    return LocalDecision(
        collection=result.collection,
        decision=result.decision,
        person=None if result.person is None else result.person.id,
        similarity=result.similarity,
        seq=result.seq,
    )
