"""The device during one run of the agent: what all of fleet management needs to know."""

from dataclasses import dataclass

from edge_agent.config.settings import AgentSettings
from edge_agent.fleet.clock_offset import ClockOffset
from edge_agent.fleet.hardware import Sensors
from shared.clock import Clock


@dataclass(frozen=True, slots=True)
class Device:
    """The settings of the run, and the clock and sensors of the machine."""

    settings: AgentSettings
    sensors: Sensors
    clock: Clock
    offset: ClockOffset
    started_s: float  # start of the process, on the monotonic clock

    @property
    def clock_problem(self) -> str | None:
        """The offset of the clock as a sentence for people; None while it is small or unknown."""
        offset_s = self.offset.seconds
        if offset_s is None or abs(offset_s) <= self.settings.fleet.clock_off_s:
            return None
        direction = "behind" if offset_s > 0 else "ahead of"
        return (
            f"This box's clock is {abs(offset_s):.1f} s {direction} the server's: "
            "sudo timedatectl set-ntp true"
        )
