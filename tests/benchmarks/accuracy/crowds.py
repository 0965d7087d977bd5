"""Crowds: how many of the faces of composed pictures the server finds, beside the plain look."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import cv2
import numpy as np
from numpy.typing import NDArray

from match_server.picture_folder import pictures_in
from models.face_models import FaceModels, open_models
from models.types import BgrImage
from tests.benchmarks.accuracy.bench import Bench
from tests.benchmarks.tables import Row

Boxes = NDArray[np.float32]  # (n, 4) x1 y1 x2 y2, pixels

_NEEDED = 1000  # people, for pictures that show each of them once
_SAME = 0.35  # overlap of two boxes that are one face


@dataclass(frozen=True, slots=True, eq=False)
class Crowd:
    """A picture with faces at known places."""

    name: str
    image: BgrImage
    truth: Boxes


def crowd_rows(bench: Bench) -> list[Row]:
    """Composed of one picture a person; then the group photographs of `MUSTER_TEST_FACES`."""
    models = open_models(bench.packs[0])
    rows = [_row(models, crowd) for crowd in _composed(models, bench.folder)]
    return rows + _group_rows(models)


def _row(models: FaceModels, crowd: Crowd) -> Row:
    plain = models.detect(crowd.image, retry_padded=True).boxes
    began = process_time()
    detections = models.search(crowd.image).boxes
    return {
        "picture": crowd.name,
        "faces": len(crowd.truth),
        "plain": _hits(plain, crowd.truth),
        "found": _hits(detections, crowd.truth),
        "others": len(detections)
        - _hits(detections, crowd.truth),  # most are bystanders of the pictures
        "ms": round(1000 * (process_time() - began)),
    }


def _group_rows(models: FaceModels) -> list[Row]:
    folder = Path(os.environ.get("MUSTER_TEST_FACES", "")) / "groups"
    rows: list[Row] = []
    for path in sorted(folder.glob("*.jpg")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is not None:
            picture = image.astype(np.uint8, copy=False)
            plain, detections = models.detect(picture, retry_padded=True), models.search(picture)
            counts = {"plain": len(plain), "found": len(detections)}
            rows.append({"picture": path.stem, "faces": None, **counts, "others": 0, "ms": None})
    return rows


def _composed(models: FaceModels, folder: Path) -> Iterator[Crowd]:
    chance = np.random.default_rng(50)
    people: dict[str, Path] = {}
    for path in pictures_in(folder):
        if path.parent != folder:
            people.setdefault(path.parent.name, path)
    files = [people[name] for name in chance.permutation(sorted(people)).tolist()]
    tiles = (tile for path in files if (tile := _tile(models, path)) is not None)
    if len(people) < _NEEDED:
        return
    for cell in (100, 160, 250):
        yield _mosaic(f"mosaic of 50, {cell} px each", tiles, cell)
    sizes = {"40 to 90 px in 1920": (1920, 1080, 40, 90), "80 px in 4000": (4000, 3000, 75, 85)}
    for name, (width, height, least, most) in sizes.items():
        yield _scattered(f"group, faces of {name}", tiles, (width, height), (least, most), chance)
    yield _scattered("group, faces of 60 to 300 px in 4000", tiles, (4000, 3000), (60, 300), chance)


def _tile(models: FaceModels, path: Path) -> tuple[BgrImage, Boxes] | None:
    """A picture and the box of its one face; None where a look at it finds another number."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        return None
    picture: BgrImage = image.astype(np.uint8, copy=False)
    detections = models.detect(picture)
    return (picture, detections.boxes[0]) if len(detections) == 1 else None


def _mosaic(name: str, tiles: Iterator[tuple[BgrImage, Boxes]], cell: int) -> Crowd:
    image = np.zeros((5 * cell, 10 * cell, 3), np.uint8)
    truth = [
        _put(image, next(tiles), place % 10 * cell, place // 10 * cell, cell) for place in range(50)
    ]
    return Crowd(name, image, np.stack(truth))


def _scattered(
    name: str,
    tiles: Iterator[tuple[BgrImage, Boxes]],
    size: tuple[int, int],
    widths: tuple[int, int],
    chance: np.random.Generator,
) -> Crowd:
    """At most thirty faces of so many pixels' width, anywhere, none over another."""
    image = np.full((size[1], size[0], 3), 110, np.uint8)
    taken: list[tuple[int, int, int]] = []
    truth = []
    for _ in range(150):
        tile = next(tiles)
        box = tile[1]
        side = round(tile[0].shape[1] * chance.uniform(*widths) / float(box[2] - box[0]))
        if side > min(size):
            continue
        x, y = (int(chance.integers(0, extent - side + 1)) for extent in size)
        if any(abs(x - a) < max(side, c) and abs(y - b) < max(side, c) for a, b, c in taken):
            continue
        taken.append((x, y, side))
        truth.append(_put(image, tile, x, y, side))
        if len(truth) == 30:
            break
    return Crowd(name, image, np.stack(truth))


def _put(image: BgrImage, tile: tuple[BgrImage, Boxes], x: int, y: int, side: int) -> Boxes:
    """Draws a square picture and returns where its face is now."""
    picture, box = tile
    shrinks = side < picture.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    image[y : y + side, x : x + side] = cv2.resize(picture, (side, side), interpolation=how)
    scale = np.float32(side) / np.array([picture.shape[1], picture.shape[0]] * 2, np.float32)
    moved: Boxes = box * scale + np.array([x, y, x, y], np.float32)
    return moved


def _hits(detections: Boxes, truth: Boxes) -> int:
    """How many of the true faces have a box of their own among the detections."""
    free = list(range(len(detections)))
    hits = 0
    for box in truth:
        overlaps = [_overlap(box, detections[row]) for row in free]
        if overlaps and max(overlaps) > _SAME:
            free.pop(int(np.argmax(overlaps)))
            hits += 1
    return hits


def _overlap(first: Boxes, second: Boxes) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = float(np.maximum(sides, 0).prod())
    areas = float((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod())
    return shared / (areas - shared)
