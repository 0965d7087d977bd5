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
from edge_agent.delivery.transport import Transport
from edge_agent.factory import (
    build_agent,
    open_galleries,
    open_ledger,
    open_outbox,
    open_transport,
)
from edge_agent.fleet.clock_offset import ClockOffset
from edge_agent.fleet.device import Device
from edge_agent.fleet.device_monitor import DeviceMonitor
from edge_agent.fleet.hardware import MachineSensors
from edge_agent.fleet.health import HealthMessages
from edge_agent.fleet.model_packs import DamagedPack, open_checked
from edge_agent.fleet.remote_config import Configurations
from edge_agent.fleet.server_link import Link, links_of, send_first
from edge_agent.vision.recognition_ledger import Ledger
from models.face_models import FaceModels
from shared.backoff import Backoff
from shared.clock import Clock, SystemClock
from shared.errors import MusterError, Unavailable
from shared.systemd import Watchdog, notify

log = logging.getLogger("edge_agent")

_DRAIN_S: Final = 30.0
_STOP_MONITOR_S: Final = 3.0
_EXTENSION_US: Final = 60_000_000
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
        """Returns the exit status. Raises MusterError for what only a person can repair."""
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
        """One run with these settings; returns None where another run follows."""
        models = self._models(settings)
        if models is None:
            return 0
        transport = open_transport(settings)
        if transport is None:
            log.warning("Neither [server] nor [broker] is configured: probes stay in the outbox")
        agent = build_agent(
            settings,
            models,
            open_outbox(settings),
            transport,
            ledger=_open_ledger(settings),
            galleries=open_galleries(settings, models.model_id),
        )
        monitor = DeviceMonitor(
            self._device(settings),
            agent,
            models.model_id,
            self._configurations,
            self._links(settings, transport),
        )
        self._agent = agent
        if self._stopping.is_set():  # the signal came while the models were being opened
            agent.stopping.set()
        names = ", ".join(camera.name for camera in settings.cameras)
        receiver = "the outbox alone" if transport is None else f"the {transport.name}"
        log.info("Watching %s, for %s", names, receiver)
        monitor.start()
        try:
            agent.run()
            if not agent.stop_requested:  # every film has ended: nothing else is to be done
                if agent.delivery is not None:
                    agent.delivery.drained(_DRAIN_S)
                self._judge_ended_films(agent)
        finally:
            monitor.stop(_STOP_MONITOR_S)
            self._agent = None
            agent.close()
        if agent.replaced.is_set() and not self._stopping.is_set():
            return None
        return 1 if agent.failed else 0

    def _device(self, settings: AgentSettings) -> Device:
        sensors = MachineSensors(settings.state_dir)
        return Device(settings, sensors, self._clock, self._offset, self._started_s)

    def _links(self, settings: AgentSettings, transport: Transport | None) -> list[Link]:
        revision = self._configurations.stored.last.revision
        return links_of(settings, transport, self._offset, revision)

    def _judge_ended_films(self, agent: Agent) -> None:
        """Decides on a configuration whose trial is longer than its films."""
        if not self._configurations.on_trial:
            return
        if any(camera.pipeline.counts.frames == 0 for camera in agent.cameras):
            self._configurations.undo("a camera ended without a picture")
            agent.replaced.set()
        else:
            self._configurations.keep()

    def _models(self, settings: AgentSettings) -> FaceModels | None:
        """Opens the models again only for other settings; returns None after a request to stop.

        While a pack is damaged, the box reports it and tries to download the pack again, with
        growing pauses. Raises PackError for other faults.
        """
        if self._opened is not None and self._opened[0] == settings.models:
            return self._opened[1]
        self._opened = None
        backoff = Backoff(max(settings.fleet.health_s, _LEAST_PAUSE_S), _LONGEST_PAUSE_S)
        failures = 0
        while not self._stopping.is_set():
            try:
                models = _while_alive(lambda: open_checked(settings.models))
            except DamagedPack as error:
                if self._configurations.on_trial:
                    raise
                failures += 1
                pause_s = backoff.limit_s(failures)
                log.error("%s; trying again in %.0f s", error.message, pause_s)
                self._report_problem(settings, error.message, pause_s)
            else:
                self._opened = settings.models, models
                return models
        return None

    def _report_problem(self, settings: AgentSettings, problem: str, pause_s: float) -> None:
        """Without models no camera runs, but health messages report the reason for `pause_s`."""
        notify("READY=1")
        watchdog = Watchdog()
        transport = open_transport(settings)
        links = self._links(settings, transport)
        health = HealthMessages(self._device(settings), "none")
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
                message = health.message(self._configurations.running.revision, problems=[problem])
                send_first(links, lambda link: link.send_health(message))  # noqa: B023
        finally:
            if transport is not None:
                transport.close(1.0)


def _while_alive(work: Callable[[], FaceModels]) -> FaceModels:
    """Runs `work`, which may take minutes, and keeps systemd from ending the process."""
    watchdog = Watchdog()
    with ThreadPoolExecutor(1, "opening") as pool:
        future = pool.submit(work)
        while not future.done():
            notify(f"EXTEND_TIMEOUT_USEC={_EXTENSION_US}")
            watchdog.alive()
            wait([future], timeout=0.5)
        return future.result()


def _open_ledger(settings: AgentSettings) -> Ledger | None:
    """Returns None where the ledger cannot be opened: people are identified without it, too."""
    try:
        return open_ledger(settings)
    except Unavailable as error:
        log.error("%s; going on without", error.message)
        return None
