"""Composes films and pictures: real faces that move before a noisy wall."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

FPS = 25.0
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Actor:
    """A face picture that moves through a film."""

    picture: Picture
    way: Callable[[float], tuple[float, float, float]]  # seconds → centre x, y and height, pixels


def write_film(
    path: Path, actors: Sequence[Actor], seconds: float, size: tuple[int, int] = (1280, 720)
) -> Path:
    """A film (MPEG-4) of the actors; seeded, so that it is the same every time."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, size)
    if not writer.isOpened():
        raise RuntimeError("this OpenCV cannot write MPEG-4")
    for frame in range(round(seconds * FPS)):
        writer.write(compose(actors, frame / FPS, size))
    writer.release()
    return path


def compose(actors: Sequence[Actor], time_s: float, size: tuple[int, int]) -> Picture:
    """One frame: the wall, and every actor at its position at `time_s`."""
    width, height = size
    chance = np.random.default_rng(5)
    coarse = chance.integers(90, 150, (height // 40 + 1, width // 40 + 1, 3), dtype=np.uint8)
    image = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    for actor in actors:
        x, y, tall = actor.way(time_s)
        scale = tall / actor.picture.shape[0]
        matrix = np.array(
            [
                [scale, 0, x - scale * actor.picture.shape[1] / 2],
                [0, scale, y - scale * actor.picture.shape[0] / 2],
            ]
        )
        cv2.warpAffine(
            actor.picture,
            matrix,
            size,
            dst=image,
            flags=cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_TRANSPARENT,
        )
    return image.astype(np.uint8, copy=False)


def shrunk(picture: Picture, tall: int = 400) -> Picture:
    """The picture at a height of `tall` pixels, so that moving it is fast and smooth."""
    scale = tall / picture.shape[0]
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)
