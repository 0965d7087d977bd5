"""The input format of a graph, and the conversion of pictures to it."""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.types import BgrImage

Channels = tuple[float, float, float]


class InputSpec(BaseModel):
    """A graph's input as the manifest declares it: float32 n × channels × height × width.

    Values are (x − mean) / divisor with x in 0..255; per channel, in the graph's own order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    width: int | None = Field(default=None, ge=1, le=4096)  # None: any
    height: int | None = Field(default=None, ge=1, le=4096)
    colour: Literal["rgb", "bgr", "gray"]
    mean: float | Channels = 0.0
    divisor: float | Channels = 1.0

    @model_validator(mode="after")
    def _divisors_divide(self) -> "InputSpec":
        if not np.all(np.asarray(self.divisor) > 0):
            raise ValueError("a divisor is above zero")
        if self.colour == "gray" and not (
            isinstance(self.mean, float) and isinstance(self.divisor, float)
        ):
            raise ValueError("a gray input has one mean and one divisor")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels. Raises ValueError if the graph takes any size."""
        if self.width is None or self.height is None:
            raise ValueError("this input has no fixed size")
        return self.width, self.height


class Layout:
    """Converts BGR pictures of one size to a graph's input, in few passes."""

    def __init__(self, spec: InputSpec) -> None:
        self._colour = spec.colour
        self._mean = _per_channel(spec.mean)
        self._factor = np.float32(1) / _per_channel(spec.divisor)
        self._shifts = bool(np.any(self._mean))
        self._scales = bool(np.any(self._factor != 1))

    def batch(self, pictures: Sequence[BgrImage] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Float32 (n, channels, height, width) of n ≥ 1 pictures (height, width, 3) BGR."""
        height, width = pictures[0].shape[:2]
        depth = 1 if self._colour == "gray" else 3
        channels = np.empty((len(pictures), depth, height, width), np.uint8)
        for picture, planes in zip(pictures, channels, strict=True):
            self._split(picture, planes)
        values = channels.astype(np.float32)
        if self._shifts:
            np.subtract(values, self._mean, out=values)
        if self._scales:
            np.multiply(values, self._factor, out=values)
        return values

    def _split(self, picture: BgrImage, planes: NDArray[np.uint8]) -> None:
        if self._colour == "gray":
            cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY, dst=planes[0])
        elif self._colour == "rgb":
            cv2.split(picture, [planes[2], planes[1], planes[0]])
        else:
            cv2.split(picture, [planes[0], planes[1], planes[2]])


def _per_channel(value: float | Channels) -> NDArray[np.float32]:
    array = np.asarray(value, np.float32)
    return array if array.ndim == 0 else array.reshape(3, 1, 1)
