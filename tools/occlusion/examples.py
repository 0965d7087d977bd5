"""Examples to learn from: a face, perhaps with something before it, seen by some poor camera."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.alignment import SIDE
from models.occlusion.regions import CELLS
from tools.occlusion.faces import CANVAS, TrainingFace
from tools.occlusion.gray import Gray, Rng, blurred, gray, resized
from tools.occlusion.occluders import Scene, clear_glasses, draw, over, smooth_noise


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A chip and the truth about it."""

    chip: NDArray[np.uint8]  # (112, 112) gray
    covered: NDArray[np.float32]  # (CELLS, CELLS) share of each cell that is covered
    counts: NDArray[np.float32]  # (CELLS, CELLS) 0 where nobody knows what belongs there


def example(
    faces: Sequence[TrainingFace], photographs: Sequence[Gray], rng: Rng, kinds: Sequence[str]
) -> Example:
    """One example of one of `faces`; a quarter of them have nothing before them."""
    face, there = _moved(faces[int(rng.integers(len(faces)))], rng)
    if rng.random() < 0.15:  # somebody who looks like two people
        other, other_there = _moved(faces[int(rng.integers(len(faces)))], rng)
        share = rng.uniform(0.3, 0.7)
        face, there = face * share + other * (1 - share), np.minimum(there, other_there)
    face = _lit(face, rng)
    if rng.random() < 0.2:
        face = over(face, clear_glasses(Scene(face, photographs), rng))
    covered = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.25, 0.55, 0.2]))):
        occluder = draw(Scene(face, photographs), rng, kinds)
        face = over(face, occluder)
        covered = np.maximum(covered, occluder.cover)
    chip = _seen(face, rng)
    counts = np.maximum(there, covered > 0.5)
    return Example(chip, cells(covered), cells(counts))


def cells(canvas: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of a canvas of the chip's size over each of its cells."""
    return resized(canvas, CELLS, cv2.INTER_AREA)


def _moved(one: TrainingFace, rng: Rng) -> tuple[Gray, Gray]:
    """The face where an alignment that errs would put it, perhaps mirrored, squeezed, bent."""
    turn, scale = np.radians(rng.normal(0, 5)), rng.normal(1, 0.05)
    narrow = rng.uniform(0.88, 1.08)
    linear = scale * np.array(
        [[narrow * np.cos(turn), -np.sin(turn)], [narrow * np.sin(turn), np.cos(turn)]]
    )
    if rng.random() < 0.5:
        linear[:, 0] *= -1
    middle, target = np.array([CANVAS, CANVAS]) / 2, np.array([SIDE, SIDE]) / 2
    back = np.linalg.inv(linear)
    x, y = _X - target[0] - rng.normal(0, 2), _Y - target[1] - rng.normal(0, 2)
    x = x + rng.normal(0, 0.1) * x * np.abs(x) / 56 + rng.normal(0, 0.06) * x**2 / 56  # turned
    bend = rng.uniform(0, 1.6)
    map_x = back[0, 0] * x + back[0, 1] * y + middle[0] + smooth_noise(rng, 4) * bend
    map_y = back[1, 0] * x + back[1, 1] * y + middle[1] + smooth_noise(rng, 4) * bend
    maps = (map_x.astype(np.float32), map_y.astype(np.float32))
    pixels = cv2.remap(one.pixels, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    there = cv2.remap(one.there, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(pixels, np.float32), np.asarray(there, np.float32)


def _lit(face: Gray, rng: Rng) -> Gray:
    """Shadows, highlights and dark cheeks: none of them covers anything."""
    if rng.random() < 0.4:
        soft = np.tanh(smooth_noise(rng, int(rng.integers(1, 5))) * rng.uniform(0.5, 4))
        face = face * (1 - rng.uniform(0, 0.35) * (1 + soft))
    if rng.random() < 0.2:  # one side
        turn = rng.uniform(0, 2 * np.pi)
        slope = ((_X - 56) * np.cos(turn) + (_Y - 56) * np.sin(turn)) / rng.uniform(6, 60)
        face = face * (1 - rng.uniform(0.2, 0.7) / (1 + np.exp(-slope)))
    if rng.random() < 0.25:
        face = face * (1 - _beard(rng))
    return gray(face)


def _beard(rng: Rng) -> Gray:
    """How much darker a beard makes each pixel: along the jaw or around the mouth, not the lips."""
    if rng.random() < 0.5:
        hair = 1 / (1 + np.exp(-(_Y - rng.uniform(80, 92) - 14 * np.abs(_X / 56 - 1)) / 3))
    else:
        wide, high, low = rng.uniform(17, 26), rng.uniform(9, 19), rng.uniform(92, 99)
        hair = np.exp(-(((_X - 56) / wide) ** 4) - ((_Y - low) / high) ** 4)
    lips = np.exp(-(((_X - 56) / rng.uniform(11, 16)) ** 4) - ((_Y - 93) / rng.uniform(3, 6)) ** 4)
    rough = 1 + smooth_noise(rng, 50) * rng.uniform(0, 0.3)
    darker = rng.uniform(0.2, 0.85) * hair * (1 - lips * rng.uniform(0.6, 1)) * rough
    return np.asarray(darker, np.float32)


def _seen(face: Gray, rng: Rng) -> NDArray[np.uint8]:
    """As a camera shows it: light, contrast, distance, motion, noise, compression."""
    bent = 255 * (gray(face) / 255) ** rng.uniform(0.6, 1.7)
    level = gray((bent - 128) * rng.uniform(0.45, 1.25) + 128 + rng.normal(0, 22))
    if rng.random() < 0.5:
        side = int(rng.integers(26, 90))
        level = resized(resized(level, side, cv2.INTER_AREA), SIDE)
    elif rng.random() < 0.4:
        level = blurred(level, rng.uniform(0.5, 2.5))
    chip = gray(level + rng.standard_normal((SIDE, SIDE)) * rng.uniform(0, 9)).astype(np.uint8)
    return compressed(chip, int(rng.integers(25, 95))) if rng.random() < 0.4 else chip


def compressed(chip: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """A gray chip after JPEG compression of so much quality (0..100)."""
    _, packed = cv2.imencode(".jpg", chip, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE), np.uint8)


_Y, _X = (axis.astype(np.float32) for axis in np.mgrid[0:SIDE, 0:SIDE])
