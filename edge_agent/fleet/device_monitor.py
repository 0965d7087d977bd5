"""The warden: a thread beside a running agent that reports, sheds load and takes configurations."""

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final

from edge_agent.agent import Agent
from edge_agent.config.settings import AgentSettings
from edge_agent.fleet.clock_offset import ClockOffset
from edge_agent.fleet.config_dry_run import tried_apart
from edge_agent.fleet.hardware import Sensors
from edge_agent.fleet.health import FrameRates, camera_health, health_message, recent_days
from edge_agent.fleet.load_shedding import Shedder, Strain
from edge_agent.fleet.remote_config import Configurations
from edge_agent.fleet.server_link import Link, tell
from edge_agent.outbox.outbox import OutboxCounts
from shared.backoff import Backoff
from shared.clock import Clock
from shared.errors import ConfigurationError, Unavailable
from shared.wire.device import CameraHealth, DesiredConfig, HealthMessage

log = logging.getLogger(__name__)

_TICK_S: Final = 1.0
_FIRST_HEALTH_S: Final = 2.0  # a broker needs a moment to be reached
_LEAST_TRIAL_S: Final = 3.0


class Warden:
    """Watches one run of the agent, and sets its `replaced` when another run should follow.

    One configuration waits at most: a newer one takes the place of one that nobody looked at yet.
    """

    def __init__(
        self,
        agent: Agent,
        settings: AgentSettings,
        model_id: str,
        configurations: Configurations,
        links: Sequence[Link],
        sensors: Sensors,
        clock: Clock,
        offset: ClockOffset,
        *,
        started_s: float,
    ) -> None:
        self._agent = agent
        self._settings = settings
        self._model_id = model_id
        self._configurations = configurations
        self._links = links
        self._sensors = sensors
        self._clock = clock
        self._offset = offset
        self._started_s = started_s  # of the process, on the monotonic clock
        self._began_s = clock.monotonic_s()
        self._health_rates = FrameRates(clock)
        self._strain_rates = FrameRates(clock)
        self._running: set[str] = set()  # the cameras that gave pictures at the last look
        self._shedder = Shedder(
            settings.fleet, clock, keep_liveness=settings.liveness.policy == "refuse"
        )
        self._next_health_s = self._began_s + _FIRST_HEALTH_S
        self._said_clock = False
        self._must_report()
        self._lock = threading.Lock()
        self._wanted: DesiredConfig | None = None
        self._attempt: _Attempt | None = None  # that is being made
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="warden", daemon=True)

    def start(self) -> None:
        for link in self._links:
            link.open(self._want)
        self._health_rates.look(self._agent.cameras)  # rates are reckoned from here
        self._strain_rates.look(self._agent.cameras)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        self._stop.set()
        self._thread.join(timeout_s)

    def _want(self, desired: DesiredConfig) -> None:
        """From the links' threads."""
        with self._lock:
            self._wanted = desired

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            try:
                self._tick()
            except Exception:
                # Probes matter more than what is told about them: the cameras go on.
                log.exception("The warden stumbled; it goes on")

    def _tick(self) -> None:
        self._watch_strain()
        if self._configurations.on_trial:
            self._judge()
        if self._agent.replaced.is_set():
            return
        self._consider()
        if not self._reported and self._clock.monotonic_s() >= self._next_report_s:
            self._report()
        if self._clock.monotonic_s() >= self._next_health_s:
            self._next_health_s = self._clock.monotonic_s() + self._settings.fleet.health_s
            message = self._health()
            tell(self._links, lambda link: link.send_health(message))
            self._say_clock()

    def _must_report(self) -> None:
        """The server is to hear of the configuration's state."""
        self._reported = False
        self._next_report_s, self._failed_reports = 0.0, 0

    def _report(self) -> None:
        """Says it; where nobody hears it, again after pauses that grow up to those of health."""
        report = self._configurations.report(self._settings)
        self._reported = tell(self._links, lambda link: link.send_report(report))
        if not self._reported:
            self._failed_reports += 1
            backoff = Backoff(_TICK_S, max(self._settings.fleet.health_s, _TICK_S))
            pause_s = backoff.limit_s(self._failed_reports)
            self._next_report_s = self._clock.monotonic_s() + pause_s

    def _watch_strain(self) -> None:
        rates = self._strain_rates.look(self._agent.cameras)
        running = {
            camera.capture.name
            for camera in self._agent.cameras
            if camera.capture.state == "running"
        }
        steady, self._running = running & self._running, running
        live = [fps for name, (fps, dropped) in rates.items() if dropped > 0 and name in steady]
        readings = self._sensors.read()
        strain = Strain(readings.temperature_c, readings.throttled, min(live, default=None))
        if self._shedder.feel(strain):
            for camera in self._agent.cameras:
                camera.limit(self._shedder.load_profile)

    def _judge(self) -> None:
        """Keeps the configuration on trial once it has proved itself, or undoes it in time."""
        passed_s = self._clock.monotonic_s() - self._began_s
        blind = [
            camera.capture.name
            for camera in self._agent.cameras
            if camera.pipeline.counts.frames == 0
        ]
        if not blind and passed_s >= _LEAST_TRIAL_S:
            self._configurations.keep()
            self._must_report()
            log.info("Configuration %d is taken", self._configurations.running.revision)
        elif passed_s >= self._settings.fleet.trial_s:
            names = " and ".join(blind)
            limit = f"{self._settings.fleet.trial_s:.0f} s"
            self._configurations.undo(f"{names} gave no picture within {limit}")
            self._begin_anew("A configuration did not prove itself")

    def _consider(self) -> None:
        """Takes up what the server wants, and decides about it once it was tried."""
        if self._attempt is not None:
            if not self._attempt.is_alive():
                attempt, self._attempt = self._attempt, None
                self._decide(attempt.desired, attempt.problem)
            return
        with self._lock:
            desired, self._wanted = self._wanted, None
        if desired is None:
            return
        self._must_report()  # also for one that is known: the server may have missed the answer
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
        self._attempt = _Attempt(desired, table, self._settings)
        self._attempt.start()

    def _decide(self, desired: DesiredConfig, problem: str | None) -> None:
        """Lets the configuration run on trial, or says why not."""
        self._must_report()
        try:
            if problem is not None:
                raise ConfigurationError(problem)
            self._configurations.try_out(desired)
        except ConfigurationError as error:
            log.error("Configuration %d is refused: %s", desired.revision, error.message)
            self._configurations.refuse(desired, error.message)
            return
        report = self._configurations.report(self._settings)
        tell(self._links, lambda link: link.send_report(report))
        self._begin_anew(f"Configuration {desired.revision} is on trial")

    def _begin_anew(self, why: str) -> None:
        log.warning("%s: the cameras are opened anew", why)
        self._agent.replaced.set()
        self._agent.stopping.set()

    def _health(self) -> HealthMessage:
        rates = self._health_rates.look(self._agent.cameras)
        cameras: list[CameraHealth] = [
            camera_health(one, rates[one.capture.name][0]) for one in self._agent.cameras
        ]
        readings = self._sensors.read()
        return health_message(
            device=self._settings.device,
            clock=self._clock,
            uptime_s=self._clock.monotonic_s() - self._started_s,
            model_id=self._model_id,
            readings=readings,
            outbox=self._outbox_counts(),
            clock_offset_s=self._offset.seconds,
            gave_up=self._shedder.load_profile.reductions,
            problems=self._problems(),
            config_revision=self._configurations.running.revision,
            gallery_seq={} if self._agent.galleries is None else self._agent.galleries.seq(),
            cameras=cameras,
            ledger=recent_days(self._agent.ledger, self._clock),
        )

    def _outbox_counts(self) -> OutboxCounts | None:
        try:
            return self._agent.outbox.counts()
        except Unavailable:
            return None

    def _problems(self) -> list[str]:
        problems = []
        offset_s = self._offset.seconds
        if offset_s is not None and abs(offset_s) > self._settings.fleet.clock_off_s:
            problems.append(clock_sentence(offset_s))
        if self._agent.outbox.trouble is not None:
            problems.append(self._agent.outbox.trouble)
        if self._agent.galleries is not None:
            problems += self._agent.galleries.problems()
        delivery = self._agent.delivery
        if delivery is not None and delivery.complaint is not None:
            problems.append(delivery.complaint)
        return problems

    def _say_clock(self) -> None:
        offset_s = self._offset.seconds
        off = offset_s is not None and abs(offset_s) > self._settings.fleet.clock_off_s
        if off and not self._said_clock and offset_s is not None:
            log.warning("%s", clock_sentence(offset_s))
        self._said_clock = off


class _Attempt(threading.Thread):
    """One configuration that is being tried apart, which takes minutes if a pack is fetched."""

    def __init__(
        self, desired: DesiredConfig, table: dict[str, Any], current: AgentSettings
    ) -> None:
        super().__init__(name="configuration-attempt", daemon=True)
        self.desired = desired
        self.problem: str | None = "it could not be tried"
        self._table = table
        self._current = current

    def run(self) -> None:
        self.problem = tried_apart(self._table, self._current)


def clock_sentence(offset_s: float) -> str:
    """The offset for people: the server's clock minus the box's."""
    way = "behind" if offset_s > 0 else "ahead of"
    return (
        f"This box's clock is {abs(offset_s):.1f} s {way} the server's: "
        "sudo timedatectl set-ntp true"
    )
