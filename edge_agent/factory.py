"""Builds the parts of an agent from its settings and connects them."""

import threading
from typing import TYPE_CHECKING

import cv2

from edge_agent.agent import Agent, CameraThread
from edge_agent.capture.camera import Capture, ReadMode
from edge_agent.capture.source import is_live, open_source
from edge_agent.capture.stall import StallLimit
from edge_agent.config.camera import CameraSettings
from edge_agent.config.settings import AgentSettings, ServerSettings
from edge_agent.delivery.transport import Transport
from edge_agent.delivery.worker import Delivery
from edge_agent.outbox.outbox import Outbox
from edge_agent.vision.pipeline import Faces, Pipeline, PipelineSettings, ProbeSink
from edge_agent.vision.recognition_ledger import Ledger
from edge_agent.vision.track_events import TrackQueue
from shared.wire.message_keys import MessageKey
from shared.wire.topics import DeviceTopics

if TYPE_CHECKING:
    from edge_agent.gallery.manager import Galleries


def build_agent(
    settings: AgentSettings,
    models: Faces,
    outbox: Outbox,
    transport: Transport | None,
    *,
    ledger: Ledger | None = None,
    galleries: "Galleries | None" = None,
    reconnect: bool = True,
) -> Agent:
    """Makes an agent. Without a transport, probes stay in the outbox.

    `reconnect`: open a live source again after it failed.
    """
    cv2.setNumThreads(settings.models.threads)
    stopping = threading.Event()
    tracks = None if transport is None else TrackQueue(settings.device)
    delivery = None if transport is None else Delivery(outbox, transport, tracks)
    sink: ProbeSink = outbox
    if galleries is not None:
        sink = galleries.recognizer(
            outbox, transport, lambda: None if delivery is None else delivery.complaint
        )
    cameras = [
        CameraThread(
            open_feed(camera, stopping, reconnect=reconnect),
            Pipeline(
                models, sink, pipeline_settings(settings, camera), tracks=tracks, ledger=ledger
            ),
        )
        for camera in settings.cameras
    ]
    return Agent(cameras, stopping, outbox, delivery, ledger=ledger, galleries=galleries)


def open_feed(camera: CameraSettings, stopping: threading.Event, *, reconnect: bool) -> Capture:
    """The frames of one camera until `stopping` is set."""
    live, stall = is_live(camera.source), StallLimit(camera.fps)
    return Capture(
        camera.name,
        lambda: open_source(camera.source, camera, stall.seconds),
        ReadMode(live=live, reconnect=live and reconnect, realtime=camera.realtime),
        stopping,
        view=camera,
        max_fps=camera.max_fps,
        stall=stall,
    )


def pipeline_settings(settings: AgentSettings, camera: CameraSettings) -> PipelineSettings:
    """The part of the settings that one camera's pipeline uses."""
    return PipelineSettings(detection=camera, shots=settings.shots, liveness=settings.liveness)


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
    """The device's own galleries, from its disk; None where the settings switch them off."""
    if settings.gallery.mode == "off":
        return None
    from edge_agent.gallery.manager import Galleries

    return Galleries(settings, model_id)


def open_transport(settings: AgentSettings) -> Transport | None:
    """The transport that the settings name; None where they name none.

    With a broker and a server, probes go through the broker, and to the server while it fails.
    Only the transport that is used is imported, to save memory.
    """
    server = None if settings.server is None else _over_http(settings.server)
    if settings.broker is None:
        return server
    from edge_agent.delivery.mqtt import MqttTransport, login_of

    broker = settings.broker
    topics = DeviceTopics(settings.site, settings.device)
    over_mqtt = MqttTransport(
        broker.url,
        topics,
        login_of(broker),
        key=None if settings.server is None else MessageKey.of_api_key(settings.server.key()),
        resend_s=broker.resend_s,
    )
    if server is None:
        return over_mqtt
    from edge_agent.delivery.fallback import FallbackTransport

    return FallbackTransport(over_mqtt, server)


def _over_http(server: ServerSettings) -> Transport:
    from edge_agent.delivery.http import HttpTransport

    return HttpTransport(server.url, server.key(), ca_file=server.ca_file, timeouts=server.timeouts)
