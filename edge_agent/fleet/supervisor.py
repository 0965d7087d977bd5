"""`edge-agent run`: one run of the agent after the other, as configurations come and go."""

import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

from edge_agent.agent import Agent
from edge_agent.config.settings import AgentSettings, ModelSettings
from edge_agent.factory import (
    build_agent,
    open_galleries,
    open_ledger,
    open_outbox,
    open_transport,
)
from edge_agent.fleet.clock_offset import ClockOffset
from edge_agent.fleet.device_monitor import Warden
from edge_agent.fleet.hardware import MachineSensors
from edge_agent.fleet.health import health_message
from edge_agent.fleet.model_packs import DamagedPack, open_sound
from edge_agent.fleet.remote_config import Configurations
from edge_agent.fleet.server_link import links_of, tell
from edge_agent.vision.recognition_ledger import Ledger
from models.face_models import FaceModels
from shared.backoff import Backoff
from shared.clock import Clock, SystemClock
from shared.errors import MusterError, Unavailable
from shared.systemd import Watchdog, notify

log = logging.getLogger("edge_agent")

_DRAIN_S: Final = 30.0
_WARDEN_S: Final = 3.0
_LONGER_US: Final = 60_000_000
_LEAST_PAUSE_S: Final = 2.0  # enough to reach a broker and say what is wrong
_LONGEST_PAUSE_S: Final = 600.0


class Service:
    """Runs the agent until a signal says stop, or until every film has ended."""

    def __init__(self, config: Path, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._started_s = self._clock.monotonic_s()
        self._configurations = Configurations(config, self._clock)
        self._offset = ClockOffset(self._clock)
        self._stopping = threading.Event()
        self._agent: Agent | None = None  # that runs now
        self._opened: tuple[ModelSettings, FaceModels] | None = None

    def run(self) -> int:
        """Answers the exit status. Raises MusterError for what only a person can mend."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        while True:
            settings = self._configurations.begin()
            logging.getLogger().setLevel(settings.log_level)
            try:
                status = self._run_once(settings)
            except Exception as error:
                if not self._configurations.on_trial:
                    raise
                log.exception("The agent broke with a configuration on trial")
                why = error.message if isinstance(error, MusterError) else type(error).__name__
                self._configurations.undo(f"the agent broke with it: {why}")
                continue
            if self._stopping.is_set():
                self._configurations.stopped()
                return 0 if status is None else status
            if status is not None:
                return status

    def _stop(self) -> None:
        self._stopping.set()
        if self._agent is not None:
            self._agent.stopping.set()

    def _run_once(self, settings: AgentSettings) -> int | None:
        """One run with these settings; None when another is to follow."""
        models = self._models(settings)
        if models is None:
            return 0
        transport = open_transport(settings)
        if transport is None:
            log.warning("Neither [server] nor [broker] is configured: probes stay in the outbox")
        links = links_of(settings, transport, self._offset, self._configurations.kept.last.revision)
        agent = build_agent(
            settings,
            models,
            open_outbox(settings),
            transport,
            ledger=_open_ledger(settings),
            galleries=open_galleries(settings, models.model_id),
        )
        warden = Warden(
            agent,
            settings,
            models.model_id,
            self._configurations,
            links,
            MachineSensors(settings.state_dir),
            self._clock,
            self._offset,
            started_s=self._started_s,
        )
        self._agent = agent
        if self._stopping.is_set():  # the signal came while the models were being opened
            agent.stopping.set()
        names = ", ".join(camera.name for camera in settings.cameras)
        road = "the outbox alone" if transport is None else f"the {transport.name}"
        log.info("Watching %s, for %s", names, road)
        warden.start()
        try:
            agent.run()
            if not agent.stop_requested:  # every film has ended: nothing else is to be done
                if agent.delivery is not None:
                    agent.delivery.drained(_DRAIN_S)
                self._judge_the_end(agent)
        finally:
            warden.stop(_WARDEN_S)
            self._agent = None
            agent.close()
        if agent.replaced.is_set() and not self._stopping.is_set():
            return None
        return 1 if agent.failed else 0

    def _judge_the_end(self, agent: Agent) -> None:
        """A trial of films that end before it does."""
        if not self._configurations.on_trial:
            return
        if any(camera.pipeline.counts.frames == 0 for camera in agent.cameras):
            self._configurations.undo("a camera ended without a picture")
            agent.replaced.set()
        else:
            self._configurations.keep()

    def _models(self, settings: AgentSettings) -> FaceModels | None:
        """The models, opened once for as long as their settings stay; None when told to stop.

        A pack that was damaged since it was installed is waited for: the box says what is wrong
        and tries to fetch it again, with growing pauses. Raises PackError for other faults.
        """
        if self._opened is not None and self._opened[0] == settings.models:
            return self._opened[1]
        self._opened = None
        backoff = Backoff(max(settings.fleet.health_s, _LEAST_PAUSE_S), _LONGEST_PAUSE_S)
        failures = 0
        while not self._stopping.is_set():
            try:
                models = _while_alive(lambda: open_sound(settings.models))
            except DamagedPack as error:
                if self._configurations.on_trial:
                    raise
                failures += 1
                pause_s = backoff.limit_s(failures)
                log.error("%s; trying again in %.0f s", error.message, pause_s)
                self._lie_low(settings, error.message, pause_s)
            else:
                self._opened = settings.models, models
                return models
        return None

    def _lie_low(self, settings: AgentSettings, problem: str, pause_s: float) -> None:
        """Without models nothing can be watched, but the server can be told so."""
        notify("READY=1")
        watchdog = Watchdog()
        transport = open_transport(settings)
        links = links_of(settings, transport, self._offset, self._configurations.kept.last.revision)
        sensors = MachineSensors(settings.state_dir)
        if transport is not None:
            transport.open(lambda: None)
        until_s = self._clock.monotonic_s() + pause_s
        next_s = self._clock.monotonic_s() + 1.0
        try:
            while self._clock.monotonic_s() < until_s and not self._stopping.wait(0.5):
                watchdog.alive()
                if self._clock.monotonic_s() < next_s:
                    continue
                next_s += settings.fleet.health_s
                message = health_message(
                    device=settings.device,
                    clock=self._clock,
                    uptime_s=self._clock.monotonic_s() - self._started_s,
                    model_id="none",
                    readings=sensors.read(),
                    outbox=None,
                    clock_offset_s=self._offset.seconds,
                    gave_up=(),
                    problems=[problem],
                    config_revision=self._configurations.running.revision,
                    gallery_seq={},
                    cameras=(),
                    ledger=(),
                )
                tell(links, lambda link: link.send_health(message))  # noqa: B023  # called at once
        finally:
            if transport is not None:
                transport.close(1.0)


def _while_alive(work: Callable[[], FaceModels]) -> FaceModels:
    """Does what may take minutes (a pack to be fetched) without systemd taking it for a hang."""
    watchdog = Watchdog()
    with ThreadPoolExecutor(1, "opening") as pool:
        future = pool.submit(work)
        while not future.done():
            notify(f"EXTEND_TIMEOUT_USEC={_LONGER_US}")
            watchdog.alive()
            wait([future], timeout=0.5)
        return future.result()


def _open_ledger(settings: AgentSettings) -> Ledger | None:
    """Without it a box still identifies people; it only cannot say why it did not."""
    try:
        return open_ledger(settings)
    except Unavailable as error:
        log.error("%s; going on without", error.message)
        return None
