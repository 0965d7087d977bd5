"""Films of an empty scene, one still person, three walking and ten in a crowd."""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.types import BgrImage
from tests.benchmarks.edge import people
from tests.benchmarks.edge.people import Portrait
from tests.edge_agent.films import Actor, compose

FPS = 25
SECONDS = 16
SIZES = ((640, 480), (1280, 720), (1920, 1080))
SCENES = ("empty", "one still", "three walking", "ten in a crowd")

Way = Callable[[float], tuple[float, float, float]]  # seconds → centre x, y and height, pixels


def film(folder: Path, scene: str, size: tuple[int, int], portraits: Sequence[Portrait]) -> Path:
    """The film of a scene, composed in `folder` unless it is there already."""
    recipe = Path(__file__).read_bytes() + Path(people.__file__).read_bytes()
    recipe += b"".join(portrait.image.tobytes() for portrait in portraits)
    name = f"{scene.replace(' ', '-')}-{size[0]}-{hashlib.sha256(recipe).hexdigest()[:10]}.mp4"
    path = folder / name
    if not path.exists():
        unfinished = path.with_suffix(".part.mp4")
        _write(unfinished, actors(scene, size, portraits), size)
        unfinished.replace(path)
    return path


def actors(scene: str, size: tuple[int, int], portraits: Sequence[Portrait]) -> list[Actor]:
    width, height = size
    different = list({portrait.person: portrait for portrait in portraits}.values())
    if scene == "empty":
        return []
    if scene == "one still":
        return [_actor(different[0], _standing(width / 2, height / 2, width * 0.12))]
    if scene == "three walking":
        return [
            _actor(portrait, _walking(width, height * (0.3 + 0.2 * row), width * 0.09, row))
            for row, portrait in enumerate(different[:3])
        ]
    crowd = (different + list(portraits))[:10]
    return [
        _actor(
            portrait,
            _standing(
                width * (0.1 + 0.2 * (place % 5)),
                height * (0.28 + 0.45 * (place // 5)),
                width * 0.065,
            ),
        )
        for place, portrait in enumerate(crowd)
    ]


def _actor(portrait: Portrait, way: Way) -> Actor:
    """`way` gives the width of the face; an actor's is the height of the whole cut-out."""
    tall = portrait.image.shape[0] / portrait.face_width

    def cut_out(time_s: float) -> tuple[float, float, float]:
        x, y, face = way(time_s)
        return x, y, face * tall

    return Actor(portrait.image, cut_out)


def _standing(x: float, y: float, face: float) -> Way:
    """Nobody stands like a picture: heads sway by a twentieth of their width."""
    return lambda time_s: (
        x + 0.05 * face * math.sin(1.3 * time_s + x),
        y + 0.03 * face * math.sin(1.9 * time_s + y),
        face,
    )


def _walking(width: float, y: float, face: float, row: int) -> Way:
    """To and fro across the picture, one behind the other, each a little faster than the last."""
    reach = width * 0.32

    def way(time_s: float) -> tuple[float, float, float]:
        phase = time_s * (0.5 + 0.1 * row) + 2 * row
        return width / 2 + reach * math.sin(phase), y + 4 * math.sin(6 * time_s), face

    return way


def _write(path: Path, cast: Sequence[Actor], size: tuple[int, int]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, size)
    if not writer.isOpened():
        raise OSError(f"cannot write a film to {path}")
    hiss = [grain(size, seed) for seed in range(5)]
    wall = compose([], 0.0, size)
    for index in range(SECONDS * FPS):
        picture = compose(cast, index / FPS, size) if cast else wall
        writer.write(cv2.add(picture, hiss[index % 5], dtype=cv2.CV_8U))
    writer.release()


def grain(size: tuple[int, int], seed: int, deviation: float = 3.0) -> NDArray[np.int16]:
    """A sensor's noise, to be added to a picture."""
    shape = (size[1], size[0], 3)
    return np.random.default_rng(seed).normal(0, deviation, shape).astype(np.int16)


def add(picture: BgrImage, hiss: NDArray[np.int16]) -> BgrImage:
    noisy: BgrImage = np.clip(picture + hiss, 0, 255).astype(np.uint8)
    return noisy
