"""How long a camera may send nothing, by its own pace, and whether its picture has frozen."""

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.types import BgrImage

LEAST_S: Final = 4.5  # a camera with several pictures a second has stalled after so long
UNKNOWN_S: Final = 10.0  # while the pace of the camera is unknown
_LONGEST_S: Final = 60.0
_INTERVALS: Final = 4.0  # a stall is longer than this many of its longest intervals
_KNOWN: Final = 2  # intervals that are enough to know the pace
_REMEMBERED: Final = 16

FROZEN_S: Final = 60.0  # longer than between two keyframes, which renew even a motionless picture
_SAMPLE_EVERY: Final = 8  # pixels


class StallLimit:
    """How long one camera may send nothing. It remembers the pace over several connections.

    `fps` is the configured frame rate. The thread that reads the camera writes it.
    """

    def __init__(self, fps: float | None = None) -> None:
        configured_s = 0.0 if fps is None else _INTERVALS / fps
        self._longest_s = max(_LONGEST_S, configured_s)
        self._unknown_s = max(UNKNOWN_S, configured_s)
        self._intervals: deque[float] = deque(maxlen=_REMEMBERED)
        self._last_s: float | None = None

    @property
    def seconds(self) -> float:
        if len(self._intervals) < _KNOWN:
            return self._unknown_s
        return min(self._longest_s, max(LEAST_S, _INTERVALS * max(tuple(self._intervals))))

    def opened(self) -> None:
        """Begins a new connection: the time to its first picture is no interval."""
        self._last_s = None

    def came(self, now_s: float) -> None:
        """Adds a picture."""
        if self._last_s is not None:
            self._intervals.append(now_s - self._last_s)
        self._last_s = now_s

    def stalled(self) -> None:
        """Notes a stall. A camera with an unknown pace gets more time, because it may be slow."""
        if len(self._intervals) < _KNOWN:
            self._unknown_s = min(2 * self._unknown_s, self._longest_s)


class FreezeDetector:
    """Notices a camera that sends the same picture again and again. One thread uses it.

    Two pictures of a sensor always differ in some pixels. It cannot notice a frozen picture into
    which the camera writes the time.
    """

    def __init__(self) -> None:
        self._sample: NDArray[np.uint8] | None = None
        self._since_s = 0.0

    def is_frozen(self, image: BgrImage, now_s: float) -> bool:
        """Whether all pictures of the last minute are the same as `image`."""
        sample = image[::_SAMPLE_EVERY, ::_SAMPLE_EVERY]
        if self._sample is None or not np.array_equal(sample, self._sample):
            self._sample, self._since_s = sample.copy(), now_s
        return now_s - self._since_s >= FROZEN_S
