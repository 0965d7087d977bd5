"""Films of an empty scene, people who stand, walk, cross, are hidden, leave; and a crowd."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.types import BgrImage
from tests.benchmarks.edge import people
from tests.benchmarks.edge.people import Portrait
from tests.support.films import Actor, compose

FPS = 25
SECONDS = 16
SIZES = ((640, 480), (1280, 720), (1920, 1080))
SCENES = (
    "empty",
    "one still",
    "three walking",
    "ten in a crowd",
    "two crossing",
    "behind a post",
    "leaving and back",
)

Way = Callable[[float], tuple[float, float, float]]  # seconds → face's centre x, y, width, pixels


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """A person in a film, and the position of their face: the truth for the tracks."""

    portrait: Portrait
    way: Way

    @property
    def actor(self) -> Actor:
        tall = self.portrait.image.shape[0] / self.portrait.face_width

        def cut_out(time_s: float) -> tuple[float, float, float]:
            x, y, face = self.way(time_s)
            return x, y, face * tall

        return Actor(self.portrait.image, cut_out)


def film(folder: Path, scene: str, size: tuple[int, int], portraits: Sequence[Portrait]) -> Path:
    """The film of a scene, composed in `folder` unless it exists."""
    recipe = Path(__file__).read_bytes() + Path(people.__file__).read_bytes()
    recipe += b"".join(portrait.image.tobytes() for portrait in portraits)
    name = f"{scene.replace(' ', '-')}-{size[0]}-{hashlib.sha256(recipe).hexdigest()[:10]}.mp4"
    path = folder / name
    if not path.exists():
        unfinished = path.with_suffix(".part.mp4")
        _write(unfinished, composed(scene, size, portraits), size)
        unfinished.replace(path)
    return path


def people_of(scene: str, size: tuple[int, int], portraits: Sequence[Portrait]) -> list[Person]:
    """The people of a scene, from the back to the front."""
    width, height = size
    different = list({portrait.person: portrait for portrait in portraits}.values())
    match scene:
        case "one still":
            ways = [_standing(width / 2, height / 2, width * 0.12)]
        case "three walking":
            ways = [
                _walking(width, height * (0.3 + 0.2 * row), width * 0.09, 0.5 + 0.1 * row, 2 * row)
                for row in range(3)
            ]
        case "two crossing":
            ways = [_walking(width, height / 2, width * 0.09, 0.8, turn) for turn in (0, math.pi)]
        case "behind a post":
            ways = [_walking(width, height / 2, width * 0.09, 0.6, 1.2)]
        case "leaving and back":
            ways = [_walking(width, height / 2, width * 0.09, 0.5, 0, reach=0.75)]
        case "ten in a crowd":
            ways = [
                _standing(
                    width * (0.1 + 0.2 * (place % 5)),
                    height * (0.28 + 0.45 * (place // 5)),
                    width * 0.065,
                )
                for place in range(10)
            ]
        case _:
            ways = []
    cast = (different + list(portraits))[: len(ways)]
    return [Person(portrait, way) for portrait, way in zip(cast, ways, strict=True)]


def _scenery(scene: str, size: tuple[int, int]) -> list[Actor]:
    """The objects in front of the people."""
    if scene != "behind a post":
        return []
    width, height = size
    post = np.full((height, round(width * 0.12), 3), (70, 80, 85), np.uint8)
    return [Actor(post, lambda _: (width / 2, height / 2, height))]


def _standing(x: float, y: float, face: float) -> Way:
    """A person who stands: the head sways by a twentieth of its width."""
    return lambda time_s: (
        x + 0.05 * face * math.sin(1.3 * time_s + x),
        y + 0.03 * face * math.sin(1.9 * time_s + y),
        face,
    )


def _walking(
    width: float, y: float, face: float, pace: float, turn: float, reach: float = 0.32
) -> Way:
    """A walk back and forth: `pace` and `turn` in radians, `reach` in picture widths."""

    def way(time_s: float) -> tuple[float, float, float]:
        x = width / 2 + width * reach * math.sin(time_s * pace + turn)
        return x, y + 4 * math.sin(6 * time_s), face

    return way


def composed(
    scene: str, size: tuple[int, int], portraits: Sequence[Portrait], seconds: float = SECONDS
) -> Iterator[BgrImage]:
    """The pictures of a scene, `FPS` a second, before any film compresses them."""
    there = [one.actor for one in people_of(scene, size, portraits)] + _scenery(scene, size)
    hiss = [grain(size, seed) for seed in range(5)]
    wall = compose([], 0.0, size)
    for index in range(round(seconds * FPS)):
        picture = compose(there, index / FPS, size) if there else wall
        yield cv2.add(picture, hiss[index % 5], dtype=cv2.CV_8U).astype(np.uint8, copy=False)


def _write(path: Path, pictures: Iterator[BgrImage], size: tuple[int, int]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, size)
    if not writer.isOpened():
        raise OSError(f"cannot write a film to {path}")
    for picture in pictures:
        writer.write(picture)
    writer.release()


def grain(size: tuple[int, int], seed: int, deviation: float = 3.0) -> NDArray[np.int16]:
    """A sensor's noise, to be added to a picture."""
    shape = (size[1], size[0], 3)
    return np.random.default_rng(seed).normal(0, deviation, shape).astype(np.int16)


def add(picture: BgrImage, hiss: NDArray[np.int16]) -> BgrImage:
    noisy: BgrImage = np.clip(picture + hiss, 0, 255).astype(np.uint8)
    return noisy
