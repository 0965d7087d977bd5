"""How long a camera may be silent, by its own pace, and whether its picture has frozen."""

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.types import BgrImage

LEAST_S: Final = 4.5  # a camera of several pictures a second that is silent for so long has stalled
UNKNOWN_S: Final = 10.0  # while the pace of a camera is not known
_LONGEST_S: Final = 60.0
_INTERVALS: Final = 4.0  # silence of so many of its longest intervals is a stall
_KNOWN: Final = 2  # intervals from which a pace is known
_REMEMBERED: Final = 16

FROZEN_S: Final = 60.0  # longer than between two keyframes, which renew even a motionless picture
_SAMPLE_EVERY: Final = 8  # pixels


class StallLimit:
    """The silence that is allowed to one camera, kept over its connections.

    `fps` is what the camera was asked for, if it was. Written by the thread that reads the camera.
    """

    def __init__(self, fps: float | None = None) -> None:
        asked_s = 0.0 if fps is None else _INTERVALS / fps
        self._longest_s = max(_LONGEST_S, asked_s)
        self._unknown_s = max(UNKNOWN_S, asked_s)
        self._intervals: deque[float] = deque(maxlen=_REMEMBERED)
        self._last_s: float | None = None

    @property
    def seconds(self) -> float:
        if len(self._intervals) < _KNOWN:
            return self._unknown_s
        return min(self._longest_s, max(LEAST_S, _INTERVALS * max(tuple(self._intervals))))

    def opened(self) -> None:
        """A new connection: its first picture tells nothing of the pace."""
        self._last_s = None

    def came(self, now_s: float) -> None:
        """A picture came."""
        if self._last_s is not None:
            self._intervals.append(now_s - self._last_s)
        self._last_s = now_s

    def stalled(self) -> None:
        """The camera was silent for too long; if its pace is not known it may just be slow."""
        if len(self._intervals) < _KNOWN:
            self._unknown_s = min(2 * self._unknown_s, self._longest_s)


class FreezeWatch:
    """Notices a camera that sends the same picture over and over. One thread uses it.

    No two pictures of a sensor are the same in every pixel. A clock that the camera writes into a
    frozen picture hides the fault from this.
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
