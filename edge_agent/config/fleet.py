"""Settings of what the device reports and what the server may change."""

from typing import Self

from pydantic import Field, model_validator

from edge_agent.config.section import Section


class FleetSettings(Section):
    """Health messages, remote configuration, and when load is shed."""

    health_s: float = Field(default=30.0, ge=1, le=3600)
    remote: bool = True
    trial_s: float = Field(default=60.0, ge=1, le=3600)
    clock_off_s: float = Field(default=5.0, ge=0.5, le=3600)
    hot_c: float = Field(default=80.0, ge=30, le=120)
    cool_c: float = Field(default=72.0, ge=20, le=119)
    min_fps: float = Field(default=2.0, ge=0, le=60)

    @model_validator(mode="after")
    def _check_temperatures(self) -> Self:
        if self.cool_c >= self.hot_c:
            raise ValueError("cool_c is below hot_c: between them nothing changes")
        return self
