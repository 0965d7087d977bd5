"""A network camera that never ends; some of its visitors may be turned away."""

import itertools
from collections.abc import Sequence

import cv2
import numpy as np

from tests.support.mjpeg_camera import MjpegCamera, Write


def moving_noise() -> list[bytes]:
    """Pictures in which something moves and nobody is seen."""
    pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    return [
        cv2.imencode(".jpg", np.roll(pixels, 8 * step, axis=1))[1].tobytes() for step in range(16)
    ]


class Webcam(MjpegCamera):
    """Ten pictures a second, over and over; only the first `viewers` visitors get any."""

    def __init__(
        self, *, viewers: int = 1_000_000, pictures: Sequence[bytes] = (), port: int = 0
    ) -> None:
        super().__init__(self._show, places=viewers, port=port)
        self.pictures = pictures or moving_noise()

    def _show(self, write: Write) -> None:
        for picture in itertools.cycle(self.pictures):
            write(self.part(picture))
            if self.over.wait(0.1):
                return
