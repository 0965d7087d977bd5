"""Motion detection despite a camera's noise in the dark."""

import cv2
import numpy as np
import pytest

from edge_agent.vision.motion import MotionDetector
from models.types import BgrImage

WIDTH, HEIGHT, FPS = 320, 180, 10
AWAKE, IDLE = FPS, 2 * FPS  # frames, as in face_search


class Night:
    """A scene in infra-red light, brightest and noisiest in the middle; seeded."""

    def __init__(self, noise: float) -> None:
        self._chance = np.random.default_rng(3)
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
        spot = np.exp(-(((x - WIDTH / 2) / 110) ** 2) - ((y - HEIGHT / 2) / 75) ** 2)
        self._scene = (20 + 80 * spot).astype(np.float32)
        self._noises = [
            self._chance.normal(0, noise, (HEIGHT, WIDTH)).astype(np.float32) for _ in range(8)
        ]

    def picture(self, walker_x: int | None = None) -> BgrImage:
        image = self._scene.copy()
        if walker_x is not None:
            image[60:170, max(0, walker_x) : max(0, walker_x + 30)] += 30
        shift = self._chance.integers(0, (HEIGHT, WIDTH))
        noise = np.roll(self._noises[self._chance.integers(8)], tuple(shift), (0, 1))
        image += noise * np.sqrt(self._scene / 50)
        grey = np.clip(image, 0, 255).astype(np.uint8)
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR).astype(np.uint8, copy=False)


def share_searched(detector: MotionDetector, night: Night, frames: int) -> float:
    awake_until, searched_at, searched = -1, -IDLE, 0
    for index in range(frames):
        if detector.has_moved(night.picture()):
            awake_until = index + AWAKE
        if index < awake_until or index - searched_at >= IDLE:
            detector.set_reference()
            searched_at = index
            searched += 1
    return searched / frames


@pytest.mark.parametrize("noise", [1.0, 8.0, 20.0])
def test_noise_is_no_motion_and_a_person_who_walks_in_is_seen_at_once(noise: float) -> None:
    detector, night = MotionDetector(), Night(noise)
    assert share_searched(detector, night, 20 * FPS) < 0.15
    # At 10 pictures a second; the walker is a tenth of the picture wide and enters within 0.4 s.
    seen = [detector.has_moved(night.picture(walker_x=-30 + 8 * index)) for index in range(1, 5)]
    assert any(seen), "before the whole of the person is in the picture"


def test_a_person_who_fills_most_of_the_picture_is_motion() -> None:
    detector, night = MotionDetector(), Night(8.0)
    share_searched(detector, night, 10 * FPS)
    image = night.picture()
    image[:, 50:] += 40
    assert detector.has_moved(image)


def test_long_motion_does_not_make_a_camera_blind_to_the_next() -> None:
    detector, night = MotionDetector(), Night(8.0)
    share_searched(detector, night, 10 * FPS)
    for index in range(30 * FPS):  # for half a minute, a person moves in one place
        detector.has_moved(night.picture(walker_x=150 + 20 * (index % 2)))
        detector.set_reference()
    share_searched(detector, night, 5 * FPS)
    assert detector.has_moved(night.picture(walker_x=150))
