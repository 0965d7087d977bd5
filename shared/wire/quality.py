"""Pose and quality of a face, as they are measured, sent and stored."""

from pydantic import Field

from shared.wire.base import WireModel


class Pose(WireModel):
    """Head pose in degrees as the camera sees it: yaw left to right, pitch up, roll clockwise."""

    yaw: float = Field(ge=-180, le=180)
    pitch: float = Field(ge=-180, le=180)
    roll: float = Field(ge=-180, le=180)


class QualityFactor(WireModel):
    """One measured property of a face picture with the range in which it passes."""

    name: str = Field(min_length=1, max_length=40)
    value: float
    low: float  # passes from here ...
    high: float  # ... to here, both included
    passed: bool


class Quality(WireModel):
    """How fit a face picture is for recognition."""

    score: float = Field(ge=0, le=1)  # one number for choosing the best shot; higher is better
    factors: tuple[QualityFactor, ...] = Field(default=(), max_length=64)

    @property
    def reasons(self) -> list[str]:
        """Names of the factors that do not pass; empty when the face is good enough."""
        return [factor.name for factor in self.factors if not factor.passed]

    @property
    def passed(self) -> bool:
        return not self.reasons
