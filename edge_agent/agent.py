"""The agent: one thread for each camera, one outbox, one delivery."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_agent.capture.camera import Capture, Frame
from edge_agent.delivery.worker import Delivery
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.load_profile import LoadProfile
from edge_agent.vision.pipeline import Pipeline
from edge_agent.vision.recognition_ledger import Ledger
from shared.errors import MusterError, SourceError
from shared.malloc_trim import find_trim
from shared.systemd import Watchdog, notify

if TYPE_CHECKING:
    from edge_agent.gallery.manager import Galleries

log = logging.getLogger(__name__)

_FINISH_S: Final = 5.0  # for the current frame and the probes of open tracks
_STOP_S: Final = 0.8  # for delivery at the end; other probes stay in the outbox
_TRIM_S: Final = 2.0
_HANGING_S: Final = 60.0
_BROKEN_FRAMES: Final = 5  # in a row: then the pipeline is broken


@dataclass(frozen=True, slots=True)
class CameraReport:
    """The counts of one camera's frames."""

    name: str
    frames: int
    dropped: int  # live frames that a newer one replaced
    seconds: float  # from the first frame to the last
    failed: str | None  # why the camera failed


class CameraThread(threading.Thread):
    """Runs one camera's frames through its pipeline until it is stopped or the film ends."""

    def __init__(self, capture: Capture, pipeline: Pipeline) -> None:
        super().__init__(name=f"camera-{capture.name}", daemon=True)
        self.capture = capture
        self.capture.on_silence = pipeline.finish  # ends the tracks of all faces in view
        self.pipeline = pipeline
        self._max_fps = capture.max_fps  # as the settings have it
        self.failure: Exception | None = None
        self._broken_frames = 0  # in a row, so far
        self._broke_last: Exception | None = None  # the error at the newest frame
        self._broken_reported = False
        self._seconds = 0.0
        self._frame_began_s: float | None = None  # None between two frames

    def run(self) -> None:
        try:
            began_s = time.monotonic()
            try:
                for frame in self.capture:
                    self._frame_began_s = time.monotonic()
                    self._step(frame)
                    self._frame_began_s = None
                if self._broke_last is not None:
                    raise self._broke_last
            finally:
                self.pipeline.finish()
                self._seconds = time.monotonic() - began_s
        except SourceError as error:
            log.error("Camera %s: %s", self.capture.name, error.message)
            self.failure = error
        except Exception as error:  # a broken pipeline must end the agent, not this thread alone
            log.exception("Camera %s: the pipeline is broken", self.capture.name)
            self.failure = error

    def _step(self, frame: Frame) -> None:
        """Processes a frame. Skips one at which a library fails, unless several in a row do."""
        try:
            self.pipeline.step(frame)
        except MusterError:
            raise
        except Exception as error:
            self._broken_frames += 1
            if self._broken_frames >= _BROKEN_FRAMES:
                raise
            self._broke_last = error
            if not self._broken_reported:
                self._broken_reported = True
                log.exception(
                    "Camera %s: skipped a frame that broke the pipeline", self.capture.name
                )
        else:
            self._broken_frames, self._broke_last = 0, None

    @property
    def hangs(self) -> bool:
        """Whether one frame takes far too long. A camera without pictures does not hang."""
        since_s = self._frame_began_s
        return since_s is not None and time.monotonic() - since_s > _HANGING_S

    def limit(self, profile: LoadProfile) -> None:
        """Sets how much work the camera may cause; any thread may call it."""
        limits = [fps for fps in (self._max_fps, profile.max_fps) if fps is not None]
        self.capture.max_fps = min(limits, default=None)
        self.pipeline.load_profile = profile

    def report(self) -> CameraReport:
        return CameraReport(
            name=self.capture.name,
            frames=self.pipeline.counts.frames,
            dropped=self.capture.dropped,
            seconds=self._seconds,
            failed=None if self.failure is None else str(self.failure),
        )


class Agent:
    """All cameras of one device, its outbox and its delivery; without one, probes stay there.

    `edge_agent.factory.build_agent` makes one from settings.
    """

    def __init__(
        self,
        cameras: Sequence[CameraThread],
        stopping: threading.Event,
        outbox: Outbox,
        delivery: Delivery | None,
        *,
        ledger: Ledger | None = None,
        galleries: "Galleries | None" = None,
    ) -> None:
        self.cameras = cameras
        self.stopping = stopping  # the event of the cameras as well
        self.stop_requested = False  # False where every film came to its end
        self.replaced = threading.Event()  # another run follows this one
        self.outbox = outbox
        self.delivery = delivery
        self.ledger = ledger
        self.galleries = galleries

    def run(self) -> None:
        """Returns when `stopping` is set, or when every camera has ended.

        Raises the error of a broken pipeline, after it has stopped the others.
        """
        if self.delivery is not None:
            self.delivery.start()
        if self.galleries is not None:
            self.galleries.start()
        for camera in self.cameras:
            camera.start()
        try:
            notify("READY=1")
            watchdog = Watchdog()
            trim, trimmed_s = find_trim(), time.monotonic()
            while any(camera.is_alive() for camera in self.cameras):
                self.stopping.wait(0.2)
                if not any(camera.hangs for camera in self.cameras):
                    watchdog.alive()
                if time.monotonic() - trimmed_s >= _TRIM_S:
                    trim()
                    trimmed_s = time.monotonic()
                if self._broken() is not None:
                    self.stopping.set()
                if self.stopping.is_set():
                    break
            self.stop_requested = self.stopping.is_set()
        finally:
            self.stopping.set()
            if not self.replaced.is_set():
                notify("STOPPING=1")
            deadline_s = time.monotonic() + _FINISH_S
            for camera in self.cameras:
                camera.join(max(0.0, deadline_s - time.monotonic()))
        broken = self._broken()
        if broken is not None:
            raise broken

    @property
    def failed(self) -> bool:
        """Whether every camera failed."""
        return all(camera.failure is not None for camera in self.cameras)

    def close(self) -> None:
        """Ends delivery; other probes stay in the outbox."""
        if self.delivery is None or self.delivery.stop(_STOP_S):
            self.outbox.close()
        else:  # a request is still open; every commit is on the disk already
            self.outbox.retry()
        if self.galleries is not None:
            self.galleries.close(_STOP_S)
        if self.ledger is not None:
            self.ledger.close()

    def _broken(self) -> Exception | None:
        """The error of delivery, or of a camera whose source did not fail."""
        failures = [camera.failure for camera in self.cameras]
        if self.delivery is not None:
            failures.append(self.delivery.failure)
        return next(
            (
                failure
                for failure in failures
                if failure is not None and not isinstance(failure, SourceError)
            ),
            None,
        )
