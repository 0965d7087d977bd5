"""Uncovered faces for training, from public packages.

They are divided by person, not by picture: about a hundred people come from `lfw_subset` inside
scikit-image's wheel (25 × 25 gray pixels each), four from the sample pack. All others are kept
for the tests: Barack Obama, and the people in the folder `MUSTER_TEST_FACES`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.alignment import REFERENCE, SIDE, similarity_transforms
from models.face_models import FaceModels
from models.samples import sample_path
from models.types import BgrImage, Detections
from models.warping import warp
from tools.occlusion.gray import Gray, gray, resized

MARGIN = 24  # pixels around the chip, so that it can be turned and moved
CANVAS = SIDE + 2 * MARGIN

_PICTURES = ("biden.jpg", "astronaut.png", "grace_hopper.jpg")
_FRAMES = range(0, 120, 12)  # of the sample film
_COVERED = (16, 59)  # hands on both cheeks, dark glasses: found by looking at all of them
_FACES_OF_LFW = 100  # the other half of the file shows no faces


@dataclass(frozen=True, slots=True, eq=False)
class TrainingFace:
    """One picture of a person, gray and aligned into the middle of a larger canvas."""

    person: str
    pixels: NDArray[np.float32]  # (CANVAS, CANVAS) 0..255
    there: NDArray[np.float32]  # (CANVAS, CANVAS) 1 where the canvas shows the picture


def sample_faces(models: FaceModels) -> Iterator[TrainingFace]:
    for name in _PICTURES:
        picture = cv2.imread(str(sample_path(name)))
        yield _largest(models, name, np.asarray(picture, np.uint8))
    film = cv2.VideoCapture(str(sample_path("carphone_pristine.mp4")))
    for index in range(_FRAMES.stop):
        there, frame = film.read()
        if there and index in _FRAMES:
            yield _largest(models, "carphone", np.asarray(frame, np.uint8))
    film.release()


def small_faces(models: FaceModels, pictures: NDArray[np.floating]) -> Iterator[TrainingFace]:
    """The people of scikit-image's `lfw_subset` (n, 25, 25) 0..1, in which a face is detected."""
    for index, small in enumerate(pictures[:_FACES_OF_LFW]):
        if index in _COVERED:
            continue
        large = gray(resized(small * 255, 200, cv2.INTER_CUBIC)).astype(np.uint8)
        picture = np.repeat(large[..., np.newaxis], 3, axis=2)
        if len(models.detect(picture, retry_padded=True)) > 0:
            yield _largest(models, f"lfw{index}", picture)


def photographs(faces: Iterable[TrainingFace], pictures: NDArray[np.floating]) -> list[Gray]:
    """Pictures to cut surfaces from: the sample pack's whole, faces (to be turned), backgrounds.

    `pictures` is scikit-image's `lfw_subset`, whose second half shows no faces.
    """
    whole = [cv2.imread(str(sample_path(name)), cv2.IMREAD_GRAYSCALE) for name in _PICTURES]
    shrunk = [resized(np.asarray(one), 400) for one in whole]
    backgrounds = [resized(one * 255, 120) for one in pictures[_FACES_OF_LFW:]]
    return [*shrunk, *backgrounds, *(face.pixels for face in faces)]


def _largest(models: FaceModels, person: str, picture: BgrImage) -> TrainingFace:
    detections = models.detect(picture, retry_padded=True)
    areas = np.prod(detections.boxes[:, 2:] - detections.boxes[:, :2], axis=1)
    largest: Detections = detections.take(np.array([int(np.argmax(areas))]))
    return training_face(person, picture, models.locate(picture, largest).points5)


def training_face(person: str, picture: BgrImage, points5: NDArray[np.float32]) -> TrainingFace:
    """The face with points (1, 5, 2) of a picture; its edge is continued beyond the picture."""
    (transform,) = similarity_transforms(points5, REFERENCE + MARGIN)
    level = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.uint8)
    size = (CANVAS, CANVAS)
    there = warp(np.full_like(level, 255), transform, size, cv2.BORDER_CONSTANT)
    pixels = warp(level, transform, size, cv2.BORDER_REPLICATE)
    return TrainingFace(person, gray(pixels), gray(there) / np.float32(255))
