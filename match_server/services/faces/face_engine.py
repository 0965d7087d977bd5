"""The face models of this server: known by name at once, opened when first needed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np

from match_server.services.faces.decode_limit import DecodeLimit
from match_server.services.faces.face_choice import ChosenFace, FaceChoice, choose_face
from models.images.decoding import Picture, PictureLimits, open_picture
from models.quality.gates import DOORWAY, OFF, PASSPORT, Gate
from models.types import BgrImage, Face
from shared.errors import NoFace

GATES: dict[str, Gate] = {"doorway": DOORWAY, "passport": PASSPORT, "off": OFF}
_PICTURES_AT_ONCE = 2  # one is decoded while the models analyze the other


class Analyzer(Protocol):
    """The part of face models that this server uses."""

    def analyze(self, image: BgrImage, *, gate: Gate = ..., embed: bool = True) -> list[Face]:
        """All faces of one picture; templates as one batch."""
        ...

    def certainty(self, image: BgrImage, face: Face) -> float:
        """The certainty that a detection is a face, 0 to 1."""
        ...


class FaceEngine:
    """The models of one process, with limits on the pictures that they read.

    The first picture opens them, after the worker has forked (sessions do not survive a fork). One
    picture is analyzed at a time: the models use all cores, and two pictures at once would only
    double the memory.
    """

    def __init__(
        self,
        model_id: str,
        dimension: int,
        open_models: Callable[[], Analyzer],
        limits: PictureLimits | None = None,
    ) -> None:
        self.model_id = model_id  # of every template that it makes
        self.dimension = dimension
        self._open = open_models
        self._limits = limits or PictureLimits()
        self._decode_limit = DecodeLimit(_PICTURES_AT_ONCE)
        self._lock = threading.Lock()
        self._models: Analyzer | None = None

    def open(self) -> None:
        """Open the models now. Raises PackError when they are not installed."""
        with self._lock:
            self._opened()

    def analyze(self, picture: bytes, *, gate: str = "off", embed: bool = True) -> list[Face]:
        """All faces of a picture file, largest first, in the file's own (upright) pixels.

        Raises PackError when the models are not installed, else as `open_picture`.
        """
        with self._analysis(picture, gate, embed=embed) as analysis:
            return analysis.faces

    def judged(self, picture: bytes, *, gate: str = "off") -> tuple[list[Face], tuple[int, int]]:
        """As `analyze`, each face with its certainty (some 20 ms a face); and the picture's size,
        width and height."""
        with self._analysis(picture, gate) as analysis:
            faces = [
                replace(face, certainty=analysis.certainty(index))
                for index, face in enumerate(analysis.faces)
            ]
            return faces, analysis.frame

    def chosen(
        self, picture: bytes, choice: FaceChoice, *, gate: str = "off", force: bool = False
    ) -> ChosenFace:
        """The face of a picture that is enrolled; raises as `choose_face`."""
        with self._analysis(picture, gate) as analysis:
            return choose_face(
                analysis.faces, analysis.frame, choice, analysis.certainty, force=force
            )

    @contextmanager
    def _analysis(self, picture: bytes, gate: str, *, embed: bool = True) -> Iterator["_Analysis"]:
        """A picture with its faces, while the models are available for more of it."""
        with self._decode_limit:
            seen = open_picture(picture, self._limits)
            with self._lock:
                models = self._opened()
                faces = models.analyze(seen.image, gate=GATES[gate], embed=embed)
                yield _Analysis(models, seen, sorted(faces, key=_area, reverse=True))

    def largest(self, picture: bytes, *, gate: str = "off") -> tuple[Face, int]:
        """The largest face, and how many there are. Raises NoFace when there is none."""
        faces = self.analyze(picture, gate=gate)
        if not faces:
            raise NoFace(
                "no face was found in the picture; a face should be upright, lit from the front "
                "and at least a twentieth of the picture wide",
                reasons=["no_face"],
            )
        return faces[0], len(faces)

    def _opened(self) -> Analyzer:
        if self._models is None:
            self._models = self._open()
        return self._models


class _Analysis:
    """The faces of one picture, largest first, in the pixels of the file."""

    def __init__(self, models: Analyzer, seen: Picture, faces: list[Face]) -> None:
        self._models = models
        self._image = seen.image
        self._detected = faces  # in the pixels of the image as it was read
        self.faces = [_enlarged(face, seen.reduction) for face in faces]
        height, width = (side * seen.reduction for side in seen.image.shape[:2])
        self.frame = width, height

    def certainty(self, index: int) -> float:
        """The certainty that the detection of this index is a face, 0 to 1."""
        return self._models.certainty(self._image, self._detected[index])


def _enlarged(face: Face, reduction: int) -> Face:
    """A face of a picture that was read at a fraction of its size, in the pixels of the file."""
    if reduction == 1:
        return face
    points68 = face.points68
    return replace(
        face,
        box=face.box * np.float32(reduction),
        points5=face.points5 * np.float32(reduction),
        points68=None if points68 is None else points68 * np.float32(reduction),
    )


def _area(face: Face) -> float:
    x1, y1, x2, y2 = (float(value) for value in np.asarray(face.box))
    return (x2 - x1) * (y2 - y1)
