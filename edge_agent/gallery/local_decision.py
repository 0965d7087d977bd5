"""Who it is, decided on the box: for every probe, or for those that the server cannot be asked."""

import json
import logging
import queue
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Literal, Protocol

from edge_agent.gallery.edge_gallery import Found
from edge_agent.vision.probe import Probe
from shared.wire.messages import LocalDecision, LocalEventMessage
from shared.wire.template import Template

log = logging.getLogger(__name__)

Mode = Literal["off", "when_away", "always"]

_STRENGTH: Final = {"unknown": 0, "ambiguous": 1, "identified": 2}
_HOOK_S: Final = 10.0
_WAITING: Final = 64


class Decider(Protocol):
    """One gallery that can be asked; `edge_agent.gallery.edge_gallery.LocalGallery`."""

    def decide(self, template: Template) -> Found | None: ...


class Sink(Protocol):
    """Where probes go."""

    def put(self, probes: Sequence[Probe]) -> int: ...


Tell = Callable[[LocalEventMessage], None]
"""Takes an event and returns at once, whatever becomes of it."""


class Recognizer:
    """Puts the box's own decision beside each probe on its way into the outbox, and tells of it.

    The probe is on the disk before anybody is told: the server will have it in any case. A later
    probe of a track, of more shots, is decided again: that decision replaces the one before.
    """

    def __init__(
        self,
        sink: Sink,
        galleries: Sequence[Decider],
        device: str,
        is_wanted: Callable[[], bool],
        tell: Sequence[Tell] = (),
    ) -> None:
        self._sink = sink
        self._galleries = galleries
        self._device = device
        self._is_wanted = is_wanted
        self._tell = tell
        self.decisions = 0
        self._alone = False  # this box decides, since the server cannot be asked
        self._decided: Counter[str] = Counter()  # while it is alone

    def put(self, probes: Sequence[Probe]) -> int:
        self._note_outage(self._is_wanted())
        if not self._alone:
            return self._sink.put(probes)
        found = [self._decide(probe.template) for probe in probes]
        stored = self._sink.put(
            [
                replace(probe, local=None if one is None else _in_words(one))
                for probe, one in zip(probes, found, strict=True)
            ]
        )
        for probe, one in zip(probes, found, strict=True):
            if one is not None:
                self._announce(probe, one)
        return stored

    def _decide(self, template: Template) -> Found | None:
        """The strongest decision of all galleries."""
        found = [one for each in self._galleries if (one := each.decide(template)) is not None]
        return max(
            found, key=lambda one: (_STRENGTH[one.decision], one.similarity or -1.0), default=None
        )

    def _note_outage(self, alone: bool) -> None:
        """One line at its beginning and one at its end, however many are decided between them."""
        if alone and not self._alone:
            log.info("Decisions are made on this box from now on")
        elif self._alone and not alone:
            counts = ", ".join(f"{count} {name}" for name, count in self._decided.items())
            log.info("The server decides again; decided on this box: %s", counts or "nothing")
            self._decided.clear()
        self._alone = alone

    def _announce(self, probe: Probe, found: Found) -> None:
        self.decisions += 1
        self._decided[found.decision] += 1
        # Neither id nor name: a log is kept longer than an erased person may be.
        log.debug(
            "Camera %s: local decision %s for track %s",
            probe.camera,
            found.decision,
            probe.track_id,
        )
        message = LocalEventMessage(
            device=self._device,
            camera=probe.camera,
            track_id=probe.track_id,
            probe_id=probe.probe_id,
            captured_at=probe.captured_at,
            decided=_in_words(found),
            name=None if found.person is None else found.person.name,
            liveness=probe.liveness,
            quality_score=probe.quality.score,
            shots=probe.shots,
        )
        for tell in self._tell:
            tell(message)


class Hook:
    """Runs a command of the owner's for each local event, with the event as JSON on its input.

    One at a time, each for 10 s at most; beyond 64 that wait, the newest is dropped and counted.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._waiting: queue.Queue[LocalEventMessage | None] = queue.Queue(_WAITING)
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
        """Ends after what waits, or after `timeout_s`."""
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (message := self._waiting.get()) is not None:
            try:
                done = subprocess.run(  # the owner's own command, never a shell
                    self._command,
                    input=json.dumps(message.model_dump(mode="json")).encode(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=_HOOK_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                log.error("The hook %s failed: %s", self._command[0], type(error).__name__)
                continue
            if done.returncode:
                log.error("The hook %s ended with status %d", self._command[0], done.returncode)


def _in_words(found: Found) -> LocalDecision:
    return LocalDecision(
        collection=found.collection,
        decision=found.decision,
        person=None if found.person is None else found.person.id,
        similarity=found.similarity,
        seq=found.seq,
    )
