"""The code book: it quantises rotated rows to integers in nested planes of 2, 2 and 4 bits.

Rotated coordinates of a unit row of width w are close to normal with standard deviation
1/sqrt(w), whatever the row. One global step therefore fits all; the 16 levels are those that lose
least for a normal variable (J. Max, "Quantizing for minimum distortion", 1960), in whole steps.
"""

import itertools
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

REACH = 1.006
"""Upper bound of the length of stored rows: unit length, its tolerance, float16 rounding."""

_OUTERMOST_SD = 2.8  # the 16th level, in standard deviations
_HALF_LEVELS = (3, 9, 15, 21, 28, 36, 47, 63)  # in steps
_COARSE_LEVELS = (-36, -12, 12, 36)  # means of the four quarters of the sixteen levels
_SEED = 0x6D7573746572  # of the rotation's signs; part of the segment format


def padded_width(dimension: int) -> int:
    """Returns the number of coordinates after rotation, a multiple of every vector size."""
    return -(-dimension // 128) * 128


@dataclass(frozen=True)
class CodeBook:
    """The parameters of the codes of one dimension. They depend on nothing else."""

    dimension: int
    width: int = field(init=False)
    step: float = field(init=False)  # a float32 value
    levels16: NDArray[np.int8] = field(init=False, repr=False)  # (16,) ascending
    levels4: NDArray[np.int8] = field(init=False, repr=False)  # (4,) ascending
    bounds: NDArray[np.int8] = field(init=False, repr=False)  # (16,) least code of each level

    def __post_init__(self) -> None:
        width = padded_width(self.dimension)
        levels = [-level for level in reversed(_HALF_LEVELS)] + list(_HALF_LEVELS)
        # Between two levels, as near the middle as 4 bits of correction (-8..7) allow.
        bounds = [
            min(max(-(-(low + high) // 2), high - 8), low + 8)
            for low, high in itertools.pairwise(levels)
        ]
        put = object.__setattr__
        put(self, "width", width)
        put(self, "step", float(np.float32(_OUTERMOST_SD / 63 / np.sqrt(width))))
        put(self, "levels16", np.array(levels, dtype=np.int8))
        put(self, "levels4", np.array(_COARSE_LEVELS, dtype=np.int8))
        put(self, "bounds", np.array([self.least, *bounds], dtype=np.int8))

    @property
    def least(self) -> int:
        """The smallest code: the lowest level with the lowest correction."""
        return -_HALF_LEVELS[-1] - 8

    @property
    def most(self) -> int:
        return _HALF_LEVELS[-1] + 7

    @cached_property
    def signs(self) -> NDArray[np.int8]:
        """Random signs of the two rounds of the rotation, (2, width) of +1 and -1."""
        bits = _splitmix64(_SEED, 2 * self.width) >> np.uint64(63)
        return (1 - 2 * bits.astype(np.int8)).reshape(2, self.width)

    @cached_property
    def packed(self) -> tuple[object, ...]:
        """The parameters as the compiled kernel reads them."""
        return (
            self.dimension,
            self.width,
            self.step,
            REACH,
            self.least,
            self.most,
            self.levels4,
            self.levels16,
            self.bounds,
            self.signs,
        )


def _splitmix64(seed: int, count: int) -> NDArray[np.uint64]:
    """Returns the first outputs of SplitMix64 (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
