"""Applies configurations of the server in one run: dry run, trial, then kept or rolled back."""

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final

from edge_agent.agent import Agent
from edge_agent.config.settings import AgentSettings
from edge_agent.fleet.config_dry_run import dry_run
from edge_agent.fleet.device import Device
from edge_agent.fleet.remote_config import Configurations
from edge_agent.fleet.server_link import Link, send_first
from shared.backoff import Backoff
from shared.errors import ConfigurationError
from shared.wire.device import DesiredConfig

log = logging.getLogger(__name__)

_MIN_TRIAL_S: Final = 3.0
_FIRST_PAUSE_S: Final = 1.0  # after a report that was not delivered


class ConfigRollout:
    """Requests another run of the agent (`replaced`) when another configuration applies.

    At most one configuration waits: a newer one replaces it. `request` may be called from any
    thread, `step` about once a second from one thread.
    """

    def __init__(
        self,
        device: Device,
        agent: Agent,
        configurations: Configurations,
        links: Sequence[Link],
    ) -> None:
        self._device = device
        self._settings = device.settings
        self._clock = device.clock
        self._agent = agent
        self._configurations = configurations
        self._links = links
        self._began_s = self._clock.monotonic_s()
        self._report_backoff = Backoff(
            _FIRST_PAUSE_S, max(self._settings.fleet.health_s, _FIRST_PAUSE_S)
        )
        self._require_report()
        self._lock = threading.Lock()
        self._requested: DesiredConfig | None = None
        self._dry_run: _DryRun | None = None

    def request(self, desired: DesiredConfig) -> None:
        with self._lock:
            self._requested = desired

    def step(self) -> None:
        if self._configurations.on_trial:
            self._judge()
        if self._agent.replaced.is_set():
            return
        self._consider()
        if not self._reported and self._clock.monotonic_s() >= self._next_report_s:
            self._report()

    def _require_report(self) -> None:
        """The state of the configuration must be reported to the server."""
        self._reported = False
        self._next_report_s, self._failed_reports = 0.0, 0

    def _report(self) -> None:
        """Reports; after a failure again, with pauses that grow up to the interval of health."""
        report = self._configurations.report(self._settings)
        self._reported = send_first(self._links, lambda link: link.send_report(report))
        if not self._reported:
            self._failed_reports += 1
            pause_s = self._report_backoff.limit_s(self._failed_reports)
            self._next_report_s = self._clock.monotonic_s() + pause_s

    def _judge(self) -> None:
        """Keeps the configuration on trial when every camera has given pictures, or undoes it."""
        passed_s = self._clock.monotonic_s() - self._began_s
        without_picture = [
            camera.capture.name
            for camera in self._agent.cameras
            if camera.pipeline.counts.frames == 0
        ]
        if not without_picture and passed_s >= _MIN_TRIAL_S:
            self._configurations.keep()
            self._require_report()
            log.info("Applied configuration %d", self._configurations.running.revision)
        elif passed_s >= self._settings.fleet.trial_s:
            names = " and ".join(without_picture)
            limit = f"{self._settings.fleet.trial_s:.0f} s"
            self._configurations.undo(f"{names} gave no picture within {limit}")
            self._restart("A configuration failed its trial")

    def _consider(self) -> None:
        """Starts a dry run of the requested configuration, and decides when the run has ended."""
        if self._dry_run is not None:
            if not self._dry_run.is_alive():
                ended, self._dry_run = self._dry_run, None
                self._decide(ended.desired, ended.problem)
            return
        with self._lock:
            desired, self._requested = self._requested, None
        if desired is None:
            return
        self._require_report()  # also for a known one: the server may have missed the last report
        if not self._configurations.is_news(desired):
            return
        if not self._settings.fleet.remote:
            self._configurations.refuse(desired, "this box takes none: fleet.remote is false")
            return
        try:
            table = self._configurations.table_with(desired)
            self._configurations.settings_with(desired)
        except ConfigurationError as error:
            self._decide(desired, error.message)
            return
        self._dry_run = _DryRun(desired, table, self._settings)
        self._dry_run.start()

    def _decide(self, desired: DesiredConfig, problem: str | None) -> None:
        """Puts the configuration on trial, or refuses it with the reason."""
        self._require_report()
        try:
            if problem is not None:
                raise ConfigurationError(problem)
            self._configurations.try_out(desired)
        except ConfigurationError as error:
            log.error("Refused configuration %d: %s", desired.revision, error.message)
            self._configurations.refuse(desired, error.message)
            return
        report = self._configurations.report(self._settings)
        send_first(self._links, lambda link: link.send_report(report))
        self._restart(f"Configuration {desired.revision} is on trial")

    def _restart(self, why: str) -> None:
        log.warning("%s: the cameras are opened again", why)
        self._agent.replaced.set()
        self._agent.stopping.set()


class _DryRun(threading.Thread):
    """The dry run of one configuration. It takes minutes where a model pack is downloaded."""

    def __init__(
        self, desired: DesiredConfig, table: dict[str, Any], current: AgentSettings
    ) -> None:
        super().__init__(name="config-dry-run", daemon=True)
        self.desired = desired
        self.problem: str | None = "it could not be tried"
        self._table = table
        self._current = current

    def run(self) -> None:
        self.problem = dry_run(self._table, self._current)
