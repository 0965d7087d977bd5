"""A thread beside a running agent: limits its load, applies configurations, reports health."""

import logging
import threading
from collections.abc import Sequence
from typing import Final

from edge_agent.agent import Agent
from edge_agent.fleet.config_rollout import ConfigRollout
from edge_agent.fleet.device import Device
from edge_agent.fleet.health import HealthMessages
from edge_agent.fleet.load_shedding import LoadControl
from edge_agent.fleet.remote_config import Configurations
from edge_agent.fleet.server_link import Link, send_first

log = logging.getLogger(__name__)

_STEP_S: Final = 1.0
_FIRST_HEALTH_S: Final = 2.0  # a broker needs a moment to be reached


class DeviceMonitor:
    """Monitors one run of the agent until `stop`, or until another run replaces it."""

    def __init__(
        self,
        device: Device,
        agent: Agent,
        model_id: str,
        configurations: Configurations,
        links: Sequence[Link],
    ) -> None:
        self._device = device
        self._agent = agent
        self._configurations = configurations
        self._links = links
        self._load = LoadControl(device, agent.cameras)
        self._rollout = ConfigRollout(device, agent, configurations, links)
        self._health = HealthMessages(device, model_id, agent)
        self._next_health_s = device.clock.monotonic_s() + _FIRST_HEALTH_S
        self._clock_warned = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="device-monitor", daemon=True)

    def start(self) -> None:
        self.open_links()
        self._health.start()
        self._load.start()
        self._thread.start()

    def open_links(self) -> None:
        for link in self._links:
            link.open(self._rollout.request)

    def stop(self, timeout_s: float) -> None:
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.wait(_STEP_S):
            try:
                self.step()
            except Exception:  # the cameras go on: probes matter more than reports about them
                log.exception("The device monitor failed; it goes on")

    def step(self) -> None:
        """One round; the thread calls it once a second."""
        self._load.step()
        self._rollout.step()
        now_s = self._device.clock.monotonic_s()
        if self._agent.replaced.is_set() or now_s < self._next_health_s:
            return
        self._next_health_s = now_s + self._device.settings.fleet.health_s
        message = self._health.message(
            self._configurations.running.revision, reductions=self._load.reductions
        )
        send_first(self._links, lambda link: link.send_health(message))
        self._warn_of_clock()

    def _warn_of_clock(self) -> None:
        """Logs a warning when the offset becomes too large, not again while it stays so."""
        problem = self._device.clock_problem
        if problem is not None and not self._clock_warned:
            log.warning("%s", problem)
        self._clock_warned = problem is not None
