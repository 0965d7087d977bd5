"""Composes the lobby film: people from still pictures walk through a drawn hall."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from demo import cast
from demo.cast import LaneName, Walk
from models.face_models import open_models
from models.images.decoding import read_picture
from models.samples import sample_path
from models.types import BgrImage
from shared.errors import NoFace

WIDTH, HEIGHT, FPS = 1280, 720, 25
DESK = 500  # pixels from the top: people stand behind a desk, which hides where pictures end
LANES: dict[LaneName, tuple[int, int]] = {  # pixels, from and to
    "far left": (0, 320),
    "left": (320, 640),
    "right": (640, 960),
    "far right": (960, 1280),
}

Box = NDArray[np.float32]  # (4,) x1 y1 x2 y2, pixels


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A person cut out of a picture, to paste into another."""

    image: BgrImage
    alpha: NDArray[np.float32]  # (height, width) 0..1
    face: Box  # pixels of `image`


def lane_of(x: float) -> LaneName:
    """Returns the lane of a horizontal position in pixels."""
    for lane, (start, end) in LANES.items():
        if start <= x < end:
            return lane
    raise ValueError(f"{x} lies outside of the film, which is {WIDTH} pixels wide")


def cut_out(picture: BgrImage, face: Box) -> Figure:
    """Cuts out the person around `face`, head and shoulders, with GrabCut."""
    width = face[2] - face[0]
    middle = (face[0] + face[2]) / 2
    x1 = int(max(0, middle - 1.7 * width))
    x2 = int(min(picture.shape[1], middle + 1.7 * width))
    y1 = int(max(0, face[1] - 0.75 * width))
    y2 = int(min(picture.shape[0], face[3] + 1.7 * width))
    scale = 130 / float(width)  # no larger than the film needs
    crop = cv2.resize(
        picture[y1:y2, x1:x2], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
    ).astype(np.uint8)
    inside = (face - np.array([x1, y1, x1, y1], dtype=np.float32)) * scale
    return Figure(crop, _person_alpha(crop, inside), inside)


def compose(
    path: Path,
    walks: Sequence[Walk],
    figures: Callable[[Walk], Figure],
    *,
    seconds: float = 15.0,
    seed: int = 7,
) -> None:
    """Write the film (MPEG-4, 1280×720, 25 frames a second) to `path`."""
    hall = _hall()
    cast = [(walk, figures(walk)) for walk in walks]
    noise = np.random.default_rng(seed)
    grain = noise.normal(0, 2.0, (8, HEIGHT, WIDTH, 1)).astype(np.float32)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise OSError(f"cannot write a film to {path}")
    frame = np.empty_like(hall)
    try:
        for index in range(int(seconds * FPS)):
            frame[:] = hall
            for walk, figure in cast:
                progress = (index / FPS - walk.from_s) / (walk.to_s - walk.from_s)
                if 0 <= progress <= 1:
                    _paste(frame, figure, walk, progress)
            flicker = 1 + 0.03 * np.sin(index / 9)
            frame *= np.float32(flicker)
            frame += grain[index % len(grain)]
            writer.write(np.clip(frame, 0, 255, out=frame).astype(np.uint8))
    finally:
        writer.release()


def _person_alpha(crop: BgrImage, face: Box) -> NDArray[np.float32]:
    height, width = crop.shape[:2]
    mask = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    x1, y1, x2, y2 = face
    middle, face_width = (x1 + x2) / 2, x2 - x1
    head = (int(middle), int((y1 + y2) / 2 - 0.08 * face_width))
    body_top = int(y2 + 0.15 * face_width)
    cv2.ellipse(
        mask, head, (int(0.85 * face_width), int(1.0 * face_width)), 0, 0, 360, cv2.GC_PR_FGD, -1
    )
    cv2.rectangle(
        mask,
        (int(middle - 1.3 * face_width), body_top),
        (int(middle + 1.3 * face_width), height),
        cv2.GC_PR_FGD,
        -1,
    )
    cv2.ellipse(
        mask, head, (int(0.5 * face_width), int(0.66 * face_width)), 0, 0, 360, cv2.GC_FGD, -1
    )
    cv2.rectangle(
        mask,
        (int(middle - 0.6 * face_width), body_top),
        (int(middle + 0.6 * face_width), height),
        cv2.GC_FGD,
        -1,
    )
    mask[: max(1, int(y1 - 0.55 * face_width))] = cv2.GC_BGD
    cv2.setRNGSeed(1)
    cv2.grabCut(crop, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    person = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    _, parts, sizes, _ = cv2.connectedComponentsWithStats(person)
    alpha = (parts == 1 + np.argmax(sizes[1:, cv2.CC_STAT_AREA])).astype(np.float32)
    return cv2.GaussianBlur(alpha, (0, 0), 1.2).astype(np.float32)


def _paste(frame: NDArray[np.float32], figure: Figure, walk: Walk, progress: float) -> None:
    """Draw the figure where its walk is at `progress` (0..1), into `frame`, within its lane."""
    left, right = LANES[walk.lane]
    lane = frame[:DESK, left:right]
    face_px = walk.face_px[0] + (walk.face_px[1] - walk.face_px[0]) * progress
    sway = 0.18 * np.sin(progress * 2 * np.pi)
    step = 5 * np.sin(progress * 24)
    target = np.array([(0.5 + sway) * (right - left), DESK - 1.95 * face_px + step])
    lean = np.deg2rad(walk.lean_degrees + 2 * np.sin(progress * 12))
    turn = np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
    scale = face_px / float(figure.face[2] - figure.face[0])
    flip = -1.0 if walk.mirrored else 1.0
    shape = turn @ np.diag([scale * flip * (1 - walk.squeeze), scale])
    shift = target - shape @ ((figure.face[:2] + figure.face[2:]) / 2)
    transform = np.column_stack([shape, shift])
    size = (right - left, DESK)
    body = cv2.warpAffine(figure.image, transform, size, flags=cv2.INTER_AREA)
    alpha = cv2.warpAffine(figure.alpha, transform, size)
    fade = np.float32(np.clip(min(progress, 1 - progress) * 12, 0, 1))  # through glass doors
    lit = np.minimum(body.astype(np.float32) * np.float32(walk.light), 255)
    lane += (lit - lane) * (alpha * fade)[..., None]


def _hall() -> NDArray[np.float32]:
    """Draws a lobby: wall, glass doors, lamps, a desk."""
    y = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
    wall = np.array([196, 204, 208], np.float32) * (1.02 - 0.28 * y)
    hall = np.broadcast_to(wall, (HEIGHT, WIDTH, 3)).copy()
    for left, right in LANES.values():
        cv2.rectangle(hall, (left + 44, 96), (right - 44, DESK), (214, 206, 190), -1)
        cv2.rectangle(hall, (left + 44, 96), (right - 44, DESK), (112, 116, 122), 5)
        cv2.line(hall, ((left + right) // 2, 96), ((left + right) // 2, DESK), (112, 116, 122), 3)
        cv2.ellipse(hall, ((left + right) // 2, 34), (70, 12), 0, 0, 360, (236, 246, 250), -1)
    shade = np.linspace(0.95, 0.6, HEIGHT - DESK, dtype=np.float32)[:, None, None]
    hall[DESK:] = np.array([86, 110, 140], np.float32) * shade
    for x in range(0, WIDTH, 160):
        cv2.line(hall, (x, DESK), (x, HEIGHT), (70, 92, 118), 2)
    cv2.rectangle(hall, (0, DESK), (WIDTH, DESK + 16), (120, 148, 176), -1)
    return cv2.GaussianBlur(hall, (0, 0), 2.2).astype(np.float32)


def lobby_film(folder: Path) -> Path:
    """Returns the lobby film in `folder`; composes it first if it is missing (some seconds)."""
    recipe = Path(__file__).read_bytes() + Path(cast.__file__).read_bytes()
    path = folder / f"lobby-{hashlib.sha256(recipe).hexdigest()[:12]}.mp4"
    if not path.exists():
        models = open_models("compact")

        def figure(walk: cast.Walk) -> Figure:
            picture = read_picture(sample_path(walk.picture).read_bytes())
            detections = models.detect(picture)
            if len(detections) == 0:
                raise NoFace(f"no face was found in the sample picture {walk.picture}")
            return cut_out(picture, detections.boxes[0])

        unfinished = folder / f"unfinished-{os.getpid()}.mp4"
        compose(unfinished, cast.WALKS, figure)
        unfinished.replace(path)
    return path
