"""Gates: the range in which each quality factor of a face must lie."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from models.quality.factors import FACTORS, Range
from shared.wire.quality import QualityFactor


@dataclass(frozen=True, slots=True)
class Gate:
    """The ranges in which factors must lie. Factors without a range always pass."""

    name: str
    ranges: Mapping[str, Range] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for factor, (low, high) in self.ranges.items():
            if factor not in FACTORS:
                raise ValueError(f"there is no factor {factor!r}; there are {', '.join(FACTORS)}")
            if not low <= high:
                raise ValueError(f"{factor} passes from {low} to {high}, which is no range")
        object.__setattr__(self, "ranges", MappingProxyType(dict(self.ranges)))

    def judge(self, values: Mapping[str, float]) -> tuple[QualityFactor, ...]:
        """Returns the factors with their ranges and whether they pass, without NaN values."""
        factors = []
        for name, value in values.items():
            if not math.isnan(value):
                low, high = self.ranges.get(name, FACTORS[name])
                factors.append(
                    QualityFactor(
                        name=name, value=value, low=low, high=high, passed=low <= value <= high
                    )
                )
        return tuple(factors)


OFF = Gate("off")

DOORWAY = Gate(
    "doorway",
    {
        "yaw": (-45.0, 45.0),
        "pitch": (-40.0, 40.0),
        "roll": (-40.0, 40.0),
        "interocular": (16.0, 65_535.0),
        "missing": (0.6, 1.0),
        "brightness": (-0.85, 0.85),
        "sharpness": (0.3, 1.0),
        "align_score": (0.75, 1.0),
        # A mask or dark glasses alone pass, although many such faces are not recognised: of drawn
        # masks `compact` misses every second one, EdgeFace-XS every sixth (decision 40). A miss
        # costs less than nobody being looked up.
        "occlusion_total": (0.0, 0.6),
    },
)

PASSPORT = Gate(
    "passport",
    {
        "yaw": (-10.0, 10.0),
        "pitch": (-15.0, 15.0),
        "roll": (-10.0, 10.0),
        "interocular": (60.0, 65_535.0),
        "size": (0.0, 0.85),
        "missing": (0.9, 1.0),
        "distance2center": (0.2, 1.0),
        "brightness": (-0.5, 0.5),
        "sharpness": (0.8, 1.0),
        "align_score": (0.85, 1.0),
        "mouth_open": (0.0, 0.4),
        "eyes_open": (0.5, 1.0),
        "occlusion_total": (0.0, 0.1),
        "occlusion_eye": (0.0, 0.1),
        "occlusion_nose": (0.0, 0.1),
        "occlusion_mouth": (0.0, 0.4),
        "occlusion_eyebrow": (0.0, 0.25),
        "occlusion_face_line": (0.0, 0.2),
    },
)
