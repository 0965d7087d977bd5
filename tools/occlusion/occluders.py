"""Things that come before a face, drawn: masks, scarves, sunglasses, hands, hair, blocks, edges.

Everything is gray, float32 0..255, on a canvas of the chip's size, drawn from the generator given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from models.alignment import SIDE
from tools.occlusion.gray import Gray, Rng, blurred, gray, resized


@dataclass(frozen=True, slots=True, eq=False)
class Occluder:
    """What lies before a face: its pixels, and how much of each pixel it covers (0..1)."""

    pixels: Gray
    cover: Gray


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What occluders are drawn for: the face, and photographs to cut textures from."""

    face: Gray
    photographs: Sequence[Gray]  # of any size of at least the chip's


def over(face: Gray, occluder: Occluder) -> Gray:
    return face + (occluder.pixels - face) * occluder.cover


def draw(scene: Scene, rng: Rng, kinds: Sequence[str] | None = None) -> Occluder:
    """One occluder of a random kind of `KINDS`."""
    names = list(KINDS) if kinds is None else list(kinds)
    return KINDS[names[rng.integers(len(names))]](scene, rng)


def smooth_noise(rng: Rng, cells: int) -> Gray:
    """A smooth random landscape of about unit spread with so many hills along a side."""
    return resized(rng.standard_normal((cells + 1, cells + 1)), SIDE, cv2.INTER_CUBIC)


def _cloth(rng: Rng, scene: Scene, low: float = 0, high: float = 255) -> Gray:
    """The surface of some thing: even, shaded, rough, striped, checked, or out of a photograph."""
    level = rng.uniform(low, high)
    contrast = rng.uniform(10, 70)
    pick = rng.integers(7)
    if pick <= 1:
        surface = np.zeros((SIDE, SIDE))
    elif pick == 2:
        surface = smooth_noise(rng, int(rng.integers(12, 50))).astype(np.float64) * contrast / 2
    elif pick in (3, 4):
        turn, period = rng.uniform(0, np.pi), rng.uniform(4, 26)
        waves = np.sin(2 * np.pi * (np.cos(turn) * _X + np.sin(turn) * _Y) / period)
        if pick == 4:
            waves = waves * np.sin(2 * np.pi * (-np.sin(turn) * _X + np.cos(turn) * _Y) / period)
        surface = (np.sign(waves) if rng.random() < 0.5 else waves) * contrast
    else:
        return photograph(rng, scene.photographs)
    folds = smooth_noise(rng, int(rng.integers(2, 8))) * rng.uniform(0, 25)
    return gray(level + surface + folds)


def photograph(rng: Rng, photographs: Sequence[Gray]) -> Gray:
    """A piece of a photograph, turned so that a face in it would not stand upright."""
    whole = photographs[int(rng.integers(len(photographs)))]
    side = int(rng.integers(40, min(whole.shape) + 1))
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in whole.shape)
    piece = whole[top : top + side, left : left + side]
    piece = np.rot90(piece, int(rng.integers(1, 4)))
    return gray(resized(piece, SIDE) * rng.uniform(0.7, 1.3))


def _skin(rng: Rng, scene: Scene) -> Gray:
    cheeks = np.concatenate([scene.face[62:80, 26:40], scene.face[62:80, 72:86]], axis=1)
    level = float(np.median(cheeks)) + rng.normal(0, 18)
    return gray(level + smooth_noise(rng, 4) * 9 + smooth_noise(rng, 25) * rng.uniform(0, 4))


def _filled(points: NDArray[np.floating]) -> Gray:
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    # Four bits of subpixels, and soft edges.
    cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], (255,), cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / np.float32(255)


def _strokes(lines: Sequence[tuple[NDArray[np.floating], int]]) -> Gray:
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    for points, thickness in lines:
        shape = np.round(points * 16).astype(np.int32)
        cv2.polylines(canvas, [shape], False, (255,), thickness, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / np.float32(255)


def _shaded(pixels: Gray, cover: Gray, rng: Rng) -> Gray:
    """Darker towards its edges, as a round thing is."""
    depth = blurred(cover, rng.uniform(2, 5))
    return gray(pixels * (1 - rng.uniform(0, 0.6) * (1 - depth)))


def _ground(top: NDArray[np.floating]) -> NDArray[np.floating]:
    """The polygon of all that lies below the line `top` (k, 2)."""
    return np.vstack([top, [[SIDE + 30, SIDE + 30], [-30, SIDE + 30]]])


def _mask(scene: Scene, rng: Rng) -> Occluder:
    """A medical or cloth mask, over the nose or, worn badly, below it."""
    middle = rng.uniform(56, 70) if rng.random() < 0.75 else rng.uniform(76, 88)
    side_y = middle + rng.uniform(2, 16)
    half, droop = rng.uniform(30, 42), rng.uniform(10, 30)
    across = np.linspace(-1, 1, 13)
    centre = 56 + rng.normal(0, 3)
    peak = rng.uniform(1.2, 2.6)
    upper = np.stack(
        [centre + across * half, middle + (side_y - middle) * np.abs(across) ** peak], 1
    )
    lower = np.stack([centre + across[::-1] * (half - 4), side_y + droop + (1 - across**2) * 45], 1)
    cover = _filled(np.vstack([upper, lower]))
    pixels = _cloth(rng, scene) if rng.random() < 0.6 else np.full_like(cover, rng.uniform(0, 255))
    pleats = np.sin(2 * np.pi * _Y / rng.uniform(9, 20)) * rng.uniform(0, 14)
    if rng.random() < 0.6:
        straps = [
            (np.array([upper[end], [edge, rng.uniform(40, 62)]]), 1)
            for end, edge in ((0, 2.0), (-1, 110.0))
        ]
        cover = np.maximum(cover, _strokes(straps))
    return Occluder(_shaded(gray(pixels + pleats), cover, rng), cover)


def _scarf(scene: Scene, rng: Rng) -> Occluder:
    across = np.linspace(-30, SIDE + 30, 12)
    line = rng.uniform(58, 104) + rng.normal(0, 0.12) * (across - 56)
    line = line + rng.normal(0, 2.5, 12) + rng.normal(0, 6) * ((across - 56) / 56) ** 2
    cover = _filled(_ground(np.stack([across, line], 1)))
    return Occluder(_shaded(_cloth(rng, scene), cover, rng), cover)


def _brim(scene: Scene, rng: Rng) -> Occluder:
    """A cap, a hood or a fringe that comes down over the eyebrows or further."""
    across = np.linspace(-30, SIDE + 30, 16)
    line = rng.uniform(36, 60) + rng.normal(0, 0.1) * (across - 56)
    line = line + rng.normal(0, rng.uniform(0.3, 3), 16) - rng.normal(0, 8) * (across / 56 - 1) ** 2
    cover = 1 - _filled(_ground(np.stack([across, line], 1)))
    return Occluder(_shaded(_cloth(rng, scene, high=160), cover, rng), cover)


def _lenses(rng: Rng) -> tuple[list[NDArray[np.floating]], list[tuple[NDArray[np.floating], int]]]:
    """Outlines of two lenses, and the bridge and temples between and beside them."""
    half_w, half_h = rng.uniform(12, 18), rng.uniform(7.5, 14)
    squareness = rng.uniform(2, 5)  # of a superellipse: round to rectangular
    low = rng.uniform(-1, 4)
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    shape = np.stack([np.cos(turns), np.sin(turns)], 1)
    shape = np.sign(shape) * np.abs(shape) ** (2 / squareness) * (half_w, half_h)
    centres = np.array([[38.0, 51.5 + low], [74.0, 51.5 + low]]) + rng.normal(0, 1, (1, 2))
    bridge = np.array(
        [[centres[0, 0] + half_w, 50 + low], [56, 47 + low], [centres[1, 0] - half_w, 50 + low]]
    )
    thickness = int(rng.integers(1, 4))
    sides = [
        (np.array([[centres[0, 0] - half_w, 49 + low], [0, rng.uniform(42, 54)]]), thickness),
        (np.array([[centres[1, 0] + half_w, 49 + low], [111, rng.uniform(42, 54)]]), thickness),
    ]
    return [centre + shape for centre in centres], [(bridge, thickness), *sides]


def _sunglasses(scene: Scene, rng: Rng) -> Occluder:
    lenses, rest = _lenses(rng)
    glass = np.maximum(_filled(lenses[0]), _filled(lenses[1]))
    cover = np.maximum(glass * rng.uniform(0.85, 1), _strokes(rest))
    level = rng.uniform(0, 120)
    sheen = (_Y - 40) * rng.uniform(-0.2, 2.5) + smooth_noise(rng, 5) * rng.uniform(0, 25)
    return Occluder(gray(level + sheen), cover)


def clear_glasses(scene: Scene, rng: Rng) -> Occluder:
    """Spectacles: they cover nothing but what their rims cover, which is not counted."""
    lenses, rest = _lenses(rng)
    rims = [(np.vstack([lens, lens[:1]]), int(rng.integers(1, 4))) for lens in lenses]
    level = rng.uniform(0, 90) if rng.random() < 0.8 else rng.uniform(150, 255)
    cover = _strokes([*rims, *rest]) * rng.uniform(0.5, 1)
    return Occluder(np.full((SIDE, SIDE), level, np.float32), cover)


def _hand(scene: Scene, rng: Rng) -> Occluder:
    """A palm and fingers from the side or from below, of about the face's own skin."""
    tip = np.array([rng.uniform(25, 87), rng.uniform(35, 105)])
    turn = rng.uniform(0, 2 * np.pi) if rng.random() < 0.4 else rng.uniform(0, np.pi)
    ahead = np.array([np.cos(turn), np.sin(turn)])  # from the finger tips to the wrist
    aside = np.array([-ahead[1], ahead[0]])
    width = rng.uniform(9, 14)
    spread, reach = rng.uniform(0.9, 1.5), rng.uniform(20, 50)
    fingers = []
    for place in range(int(rng.integers(1, 5))):
        start = tip + aside * (place - 1.5) * width * spread
        start = start + ahead * (abs(place - 1.4) * rng.uniform(2, 7))
        bend = aside * rng.normal(0, 4)
        line = np.array([start, start + ahead * reach * 0.6 + bend, tip + ahead * (reach + 15)])
        fingers.append(_strokes([(line, round(width))]))
    palm = tip + ahead * (reach + rng.uniform(15, 28))
    turns = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    circle = np.stack([np.cos(turns), np.sin(turns)], 1) * rng.uniform(22, 34)
    parts = [*fingers, _filled(palm + circle)]
    pixels = _skin(rng, scene) if rng.random() < 0.8 else _cloth(rng, scene)  # gloves
    for part in parts:  # each with its own shadow line
        edge = blurred(part, 1.6) * (1 - part)
        pixels = gray(pixels * (1 - rng.uniform(0.3, 0.9) * edge))
    cover = np.max(parts, axis=0)
    return Occluder(_shaded(pixels, cover, rng), cover)


def _hair(scene: Scene, rng: Rng) -> Occluder:
    """Strands that fall over the face from above or from one side."""
    level, spread = rng.uniform(0, 190), rng.uniform(5, 45)
    left = rng.uniform(-20, 90)
    width, fall = rng.uniform(20, 60), rng.uniform(45, 130)
    lean, curl = rng.normal(0, 20), rng.normal(0, 12)
    cover = np.zeros((SIDE, SIDE), np.float32)
    pixels = np.full((SIDE, SIDE), level, np.float32)
    down = np.linspace(0, 1, 7)
    for _ in range(int(rng.integers(3, 9))):
        strands = []
        for _ in range(int(rng.integers(4, 12))):
            x = left + rng.uniform(0, width) + lean * down + curl * np.sin(3 * down)
            y = -10 + fall * rng.uniform(0.7, 1) * down
            strands.append((np.stack([x, y], 1), int(rng.integers(1, 5))))
        lock = _strokes(strands)
        pixels += (level + rng.normal(0, spread) - pixels) * lock
        cover = np.maximum(cover, lock)
    return Occluder(gray(pixels), cover)


def _blob(scene: Scene, rng: Rng) -> Occluder:
    """Any other thing: a cup, a telephone, a microphone, somebody's shoulder."""
    centre = np.array([rng.uniform(5, 107), rng.uniform(28, 112)])
    radius = rng.uniform(7, 46)
    if rng.random() < 0.5:  # with corners
        half = radius * np.array([rng.uniform(0.4, 1), rng.uniform(0.6, 1.2)])
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
        turn = rng.normal(0, 0.5)
        points = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    else:
        turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        orders = np.array([[1], [2], [3]])
        waves = np.cos(orders * turns + rng.uniform(0, 6, (3, 1)))
        wobble = (rng.normal(0, 0.14, (3, 1)) * waves).sum(axis=0)
        points = np.stack([np.cos(turns), np.sin(turns) * rng.uniform(0.6, 1.4)], 1)
        points = points * (radius * (1 + wobble))[:, np.newaxis]
    cover = _filled(centre + points)
    pixels = _cloth(rng, scene) if rng.random() < 0.75 else _skin(rng, scene)
    return Occluder(_shaded(pixels, cover, rng), cover)


def _patch(scene: Scene, rng: Rng) -> Occluder:
    """Something small just before one feature: an eye patch, a plaster, a cup at the lips."""
    x, y, half_w, half_h = _FEATURES[int(rng.integers(len(_FEATURES)))]
    turns = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    squareness, tilt = rng.uniform(2, 6), rng.normal(0, 0.3)
    shape = np.stack([np.cos(turns), np.sin(turns)], 1)
    shape = np.sign(shape) * np.abs(shape) ** (2 / squareness)
    shape = shape * (half_w, half_h) * rng.uniform(0.9, 1.6, 2)
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    cover = _filled(shape @ turn + (x, y) + rng.normal(0, 2, 2))
    even = np.full((SIDE, SIDE), rng.uniform(0, 255), np.float32)
    pixels = even if rng.random() < 0.5 else _cloth(rng, scene)
    return Occluder(_shaded(pixels, cover, rng), cover)


# Middle and half extents of eyes, eyebrows with eyes, nose, mouth.
_FEATURES = ((38, 51, 11, 7), (74, 51, 11, 7), (38, 46, 14, 12), (74, 46, 14, 12), (56, 69, 11, 14),
             (56, 93, 18, 9))  # fmt: skip


def _edge(scene: Scene, rng: Rng) -> Occluder:
    """The end of the picture, which alignment fills with black; margins may be of any gray."""
    turn = rng.integers(4) * np.pi / 2 + rng.normal(0, 0.15)
    distance = rng.uniform(-5, 42)  # of the edge from the chip's middle
    beyond = (_X - 56) * np.cos(turn) + (_Y - 60) * np.sin(turn) - distance
    level = 0.0 if rng.random() < 0.6 else rng.uniform(0, 255)
    return Occluder(
        np.full((SIDE, SIDE), level, np.float32), np.clip(beyond + 0.5, 0, 1).astype(np.float32)
    )


_Y, _X = (axis.astype(np.float32) for axis in np.mgrid[0:SIDE, 0:SIDE])

KINDS: Mapping[str, Callable[[Scene, Rng], Occluder]] = MappingProxyType(
    {
        "mask": _mask,
        "scarf": _scarf,
        "brim": _brim,
        "sunglasses": _sunglasses,
        "hand": _hand,
        "hair": _hair,
        "blob": _blob,
        "patch": _patch,
        "edge": _edge,
    }
)
