"""A network camera that never ends and may refuse some clients."""

import itertools
from collections.abc import Sequence

import cv2
import numpy as np

from tests.support.mjpeg_camera import MjpegCamera, Write


def moving_noise() -> list[bytes]:
    """Pictures with motion and without people."""
    pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    return [
        cv2.imencode(".jpg", np.roll(pixels, 8 * step, axis=1))[1].tobytes() for step in range(16)
    ]


class Webcam(MjpegCamera):
    """Sends the pictures again and again; only the first `viewers` clients get any."""

    def __init__(
        self,
        *,
        viewers: int = 1_000_000,
        pictures: Sequence[bytes] = (),
        fps: float = 10.0,
        port: int = 0,
    ) -> None:
        super().__init__(self._show, places=viewers, port=port)
        self._pause_s = 1 / fps
        self.pictures = pictures or moving_noise()

    def _show(self, write: Write) -> None:
        for picture in itertools.cycle(self.pictures):
            write(self.part(picture))
            if self.over.wait(self._pause_s):
                return
