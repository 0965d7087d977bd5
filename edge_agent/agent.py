"""The agent: one thread a camera, one outbox, one delivery. Here, and only here, they are wired."""

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2

from edge_agent.capture.camera import Feed, Frame, Manner
from edge_agent.capture.source import is_live, open_source
from edge_agent.capture.stall import StallLimit
from edge_agent.config.camera import CameraSettings
from edge_agent.config.settings import AgentSettings, BrokerSettings, ServerSettings
from edge_agent.delivery.transport import Transport
from edge_agent.delivery.worker import Delivery
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.best_shot import ShotRules
from edge_agent.vision.face_search import DetectionRules
from edge_agent.vision.load_profile import Knobs
from edge_agent.vision.pipeline import Faces, Pipeline, PipelineRules, ProbeSink
from edge_agent.vision.quality_gate import LivenessRules
from edge_agent.vision.recognition_ledger import Ledger
from edge_agent.vision.track_events import TrackQueue
from edge_agent.vision.tracker import TrackingRules
from models.quality.quality import DOORWAY, OFF, PASSPORT
from shared.errors import MusterError, SourceError
from shared.malloc_trim import find_trim
from shared.systemd import Watchdog, notify
from shared.wire.message_keys import MessageKey
from shared.wire.topics import DeviceTopics

if TYPE_CHECKING:
    from edge_agent.delivery.mqtt import MqttLogin
    from edge_agent.gallery.manager import Galleries

log = logging.getLogger(__name__)

_FINISH_S: Final = 5.0  # for the frame that is worked on and the probes of open tracks
_STOP_S: Final = 0.8  # for delivery at the end; what is left stays in the outbox
_TRIM_S: Final = 2.0
_HANGING_S: Final = 60.0
_BROKEN_FRAMES: Final = 5  # one after the other: then it is the pipeline that is broken
_GATES: Final = {"doorway": DOORWAY, "passport": PASSPORT, "off": OFF}


@dataclass(frozen=True, slots=True)
class CameraReport:
    """What became of one camera's frames."""

    name: str
    frames: int
    dropped: int  # live frames that a newer one replaced
    seconds: float  # from the first frame to the last
    failed: str | None  # why the camera ended before its time


class CameraThread(threading.Thread):
    """Feeds one camera's frames to its pipeline until told to stop or until the film ends."""

    def __init__(self, feed: Feed, pipeline: Pipeline) -> None:
        super().__init__(name=f"camera-{feed.camera}", daemon=True)
        self.feed = feed
        self.feed.on_silence = pipeline.finish  # whoever was in view is not watched any more
        self.pipeline = pipeline
        self._max_fps = feed.max_fps  # as the settings have it
        self.failure: Exception | None = None
        self._broken_frames = 0  # one after the other, up to now
        self._broke_last: Exception | None = None  # what broke the pipeline at the newest frame
        self._said_broken = False
        self._seconds = 0.0
        self._at_work_since_s: float | None = None  # on the frame that it has

    def run(self) -> None:
        try:
            began_s = time.monotonic()
            try:
                for frame in self.feed:
                    self._at_work_since_s = time.monotonic()
                    self._step(frame)
                    self._at_work_since_s = None
                if self._broke_last is not None:
                    raise self._broke_last
            finally:
                self.pipeline.finish()
                self._seconds = time.monotonic() - began_s
        except SourceError as error:
            log.error("Camera %s: %s", self.feed.camera, error.message)
            self.failure = error
        except Exception as error:  # a broken pipeline must end the agent, not this thread alone
            log.exception("Camera %s: the pipeline is broken", self.feed.camera)
            self.failure = error

    def _step(self, frame: Frame) -> None:
        """Works on a frame; passes over one that a library breaks at, but not one after another."""
        try:
            self.pipeline.step(frame)
        except MusterError:
            raise
        except Exception as error:
            self._broken_frames += 1
            if self._broken_frames >= _BROKEN_FRAMES:
                raise
            self._broke_last = error
            if not self._said_broken:
                self._said_broken = True
                log.exception(
                    "Camera %s: a frame broke the pipeline; passed over", self.feed.camera
                )
        else:
            self._broken_frames, self._broke_last = 0, None

    @property
    def hangs(self) -> bool:
        """Whether one frame has taken far longer than any frame can. A camera may be silent."""
        since_s = self._at_work_since_s
        return since_s is not None and time.monotonic() - since_s > _HANGING_S

    def turn(self, knobs: Knobs) -> None:
        """Makes the camera less work, or more again; from any thread."""
        limits = [one for one in (self._max_fps, knobs.max_fps) if one is not None]
        self.feed.max_fps = min(limits, default=None)
        self.pipeline.knobs = knobs

    def report(self) -> CameraReport:
        return CameraReport(
            name=self.feed.camera,
            frames=self.pipeline.counts.frames,
            dropped=self.feed.dropped,
            seconds=self._seconds,
            failed=None if self.failure is None else str(self.failure),
        )


class Agent:
    """All cameras of one box. `transport` None keeps the probes in the outbox."""

    def __init__(
        self,
        settings: AgentSettings,
        models: Faces,
        outbox: Outbox,
        transport: Transport | None,
        *,
        ledger: Ledger | None = None,
        galleries: "Galleries | None" = None,
        reconnect: bool = True,
    ) -> None:
        cv2.setNumThreads(settings.models.threads)
        self.stopping = threading.Event()
        self.stopping_was_asked = False  # rather than the end of every film
        self.replaced = threading.Event()  # another run follows this one
        self.outbox = outbox
        self.ledger = ledger
        self.tracks = None if transport is None else TrackQueue(settings.device)
        self.delivery = None if transport is None else Delivery(outbox, transport, self.tracks)
        self.galleries = galleries
        self.sink = self._sink(transport)
        self.cameras = [
            self._camera(camera, settings, models, reconnect) for camera in settings.cameras
        ]

    def run(self) -> None:
        """Returns when `stopping` is set, or when every camera has ended.

        Raises what broke a pipeline, once the others have been told to stop.
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
            self.stopping_was_asked = self.stopping.is_set()
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
        """Whether no camera came to its end."""
        return all(camera.failure is not None for camera in self.cameras)

    def close(self) -> None:
        """Ends delivery; what is not delivered stays in the outbox."""
        if self.delivery is None or self.delivery.stop(_STOP_S):
            self.outbox.close()
        else:  # the far end still owes an answer; every commit is on the disk already
            self.outbox.retry()
        if self.galleries is not None:
            self.galleries.close(_STOP_S)
        if self.ledger is not None:
            self.ledger.close()

    def _sink(self, transport: Transport | None) -> ProbeSink:
        """Where the pipelines put probes: the outbox, with the box's own decision if wanted."""
        delivery = self.delivery
        if self.galleries is None:
            return self.outbox
        return self.galleries.recognizer(
            self.outbox, transport, lambda: None if delivery is None else delivery.complaint
        )

    def _broken(self) -> Exception | None:
        """What ended delivery, or a camera though its source was well."""
        failures = [camera.failure for camera in self.cameras]
        if self.delivery is not None:
            failures.append(self.delivery.failure)
        return next(
            (one for one in failures if one is not None and not isinstance(one, SourceError)), None
        )

    def _camera(
        self, camera: CameraSettings, settings: AgentSettings, models: Faces, reconnect: bool
    ) -> CameraThread:
        live, stall = is_live(camera.source), StallLimit(camera.fps)
        feed = Feed(
            camera.name,
            lambda: open_source(camera.source, camera.asked, stall.seconds),
            Manner(live=live, reconnect=live and reconnect, realtime=camera.realtime),
            self.stopping,
            view=camera.view,
            max_fps=camera.max_fps,
            stall=stall,
        )
        rules = pipeline_rules(settings, camera)
        pipeline = Pipeline(models, self.sink, rules, tracks=self.tracks, ledger=self.ledger)
        return CameraThread(feed, pipeline)


def pipeline_rules(settings: AgentSettings, camera: CameraSettings) -> PipelineRules:
    """The rules that these settings describe for one of their cameras."""
    shots, liveness = settings.shots, settings.liveness
    return PipelineRules(
        gate=_GATES[shots.gate],
        detection=DetectionRules(
            every=camera.detect_every, motion=camera.motion, reach=camera.faces
        ),
        tracking=TrackingRules(keep_missed_s=shots.keep_missed_s),
        shots=ShotRules(
            first_wait_s=shots.first_wait_s,
            margin=shots.margin,
            max_probes=shots.max_probes,
            fuse=shots.fuse,
        ),
        liveness=LivenessRules(liveness.policy, liveness.threshold),
        thumbnails=shots.thumbnails,
    )


def open_outbox(settings: AgentSettings) -> Outbox:
    bounds = settings.outbox
    return Outbox(
        settings.outbox_path,
        settings.device,
        max_bytes=bounds.max_mib * 1024 * 1024,
        max_age_s=bounds.max_age_days * 86_400,
        key_file=settings.gallery.key_file,
    )


def open_ledger(settings: AgentSettings) -> Ledger:
    return Ledger(settings.ledger_path)


def open_galleries(settings: AgentSettings, model_id: str) -> "Galleries | None":
    """What the box knows by itself, from its disk; None where the settings want nothing of it."""
    if settings.gallery.mode == "off":
        return None
    from edge_agent.gallery.manager import Galleries

    return Galleries(settings, model_id)


def open_transport(settings: AgentSettings) -> Transport | None:
    """The road that the settings name; None where they name none.

    With a broker and a server the broker is the road, and the server is there for when it fails.
    Only the road that is used is imported: a box has better uses for the memory.
    """
    server = None if settings.server is None else _over_http(settings.server)
    if settings.broker is None:
        return server
    from edge_agent.delivery.mqtt import MqttTransport

    broker = settings.broker
    topics = DeviceTopics(settings.site, settings.device)
    road = MqttTransport(
        broker.url,
        topics,
        broker_login(broker),
        key=None if settings.server is None else MessageKey.of_api_key(settings.server.key()),
        resend_s=broker.resend_s,
    )
    if server is None:
        return road
    from edge_agent.delivery.fallback import FallbackTransport

    return FallbackTransport(road, server)


def _over_http(server: ServerSettings) -> Transport:
    from edge_agent.delivery.http import HttpTransport

    return HttpTransport(server.url, server.key(), ca_file=server.ca_file, patience=server.patience)


def broker_login(broker: BrokerSettings) -> "MqttLogin":
    from edge_agent.delivery.mqtt import MqttLogin

    return MqttLogin(
        username=broker.username,
        password=broker.password(),
        ca_file=broker.ca_file,
        certificate_file=broker.certificate_file,
        key_file=broker.key_file,
    )
