"""The face models of this server: known by name at once, opened when first needed."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np

from match_server.services.faces.decode_limit import DecodeLimit
from match_server.services.faces.face_choice import (
    LEAST_OVERLAP,
    Box,
    ChosenFace,
    FaceChoice,
    box_of,
    choose_face,
    overlap,
)
from models.images.decoding import Picture, PictureLimits, open_picture
from models.quality.gates import DOORWAY, OFF, PASSPORT, Gate
from models.types import BgrImage, Face, LocatedFace
from shared.errors import NoFace

GATES: dict[str, Gate] = {"doorway": DOORWAY, "passport": PASSPORT, "off": OFF}
_Located = TypeVar("_Located", bound=LocatedFace)


class Analyzer(Protocol):
    """The part of face models that this server uses. Several threads may call all methods."""

    def find(self, image: BgrImage) -> Sequence[LocatedFace]:
        """The faces of one picture."""
        ...

    def analyze(
        self,
        image: BgrImage,
        faces: Sequence[LocatedFace],
        *,
        gate: Gate = ...,
        embed: bool = True,
        thorough: bool = True,
    ) -> list[Face]:
        """All values of these faces; templates as one batch."""
        ...

    def certainty(self, image: BgrImage, face: LocatedFace) -> float:
        """The certainty that a detection is a face, 0 to 1."""
        ...


class FaceEngine:
    """The models of one process, with limits on the pictures that they read.

    The first picture opens them, after the worker has forked (sessions do not survive a fork). Each
    picture is analyzed on one thread, at most `limits.at_once` at a time: two threads for one
    picture would take longer than for a picture each.
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
        self._decode_limit = DecodeLimit(self._limits.at_once)
        self._lock = threading.Lock()
        self._models: Analyzer | None = None

    def open(self) -> None:
        """Open the models now. Raises PackError when they are not installed."""
        self._opened()

    def analyze(
        self, picture: bytes, *, gate: str = "off", embed: bool = True, thorough: bool = True
    ) -> list[Face]:
        """All faces of a picture file, largest first, in the file's own (upright) pixels.

        Unless `thorough`, as `FaceModels.analyze`. Raises PackError when the models are not
        installed, else as `open_picture`.
        """
        with self._analysis(picture) as analysis:
            everything = range(len(analysis.faces))
            return analysis.analyze(everything, gate, embed=embed, thorough=thorough)

    def judged(self, picture: bytes, *, gate: str = "off") -> tuple[list[Face], tuple[int, int]]:
        """As `analyze`, each face with its certainty (some 20 ms a face); and the picture's size,
        width and height."""
        with self._analysis(picture) as analysis:
            faces = [
                replace(face, certainty=analysis.certainty(index))
                for index, face in enumerate(analysis.analyze(range(len(analysis.faces)), gate))
            ]
            return faces, analysis.frame

    def chosen(
        self, picture: bytes, choice: FaceChoice, *, gate: str = "off", force: bool = False
    ) -> ChosenFace:
        """The face of a picture that is enrolled; raises as `choose_face`."""
        with self._analysis(picture) as analysis:
            faces = analysis.faces
            index, sure = choose_face(
                faces, analysis.frame, choice, analysis.certainty, force=force
            )
            (face,) = analysis.analyze([index], gate)
            return ChosenFace(face, index, len(faces), sure)

    def largest(self, picture: bytes, *, gate: str = "off") -> tuple[Face, int]:
        """The largest face, not `thorough`, and how many there are. Raises NoFace for none."""
        with self._analysis(picture) as analysis:
            if not analysis.faces:
                raise NoFace(
                    "no face was found in the picture; a face should be upright, lit from the "
                    "front and at least a twentieth of the picture wide",
                    reasons=["no_face"],
                )
            (face,) = analysis.analyze([0], gate, thorough=False)
            return face, len(analysis.faces)

    def face_at(self, picture: bytes, box: Box) -> Face | None:
        """The face of a picture that overlaps a box most; None where none does."""
        with self._analysis(picture) as analysis:
            overlaps = [overlap(box_of(face), box) for face in analysis.faces]
            if max(overlaps, default=0.0) < LEAST_OVERLAP:
                return None
            (face,) = analysis.analyze([int(np.argmax(overlaps))], "off")
            return face

    @contextmanager
    def _analysis(self, picture: bytes) -> Iterator["_Analysis"]:
        """A picture with its faces, while the models are available for more of it."""
        with self._decode_limit:
            yield _Analysis(self._opened(), open_picture(picture, self._limits))

    def _opened(self) -> Analyzer:
        with self._lock:
            if self._models is None:
                self._models = self._open()
            return self._models


class _Analysis:
    """The faces of one picture, largest first, in the pixels of the file."""

    def __init__(self, models: Analyzer, seen: Picture) -> None:
        self._models = models
        self._image = seen.image
        self._reduction = seen.reduction
        # In the pixels of the image as it was read:
        self._located = sorted(models.find(seen.image), key=_area, reverse=True)
        self.faces = [_enlarged(face, seen.reduction) for face in self._located]
        height, width = (side * seen.reduction for side in seen.image.shape[:2])
        self.frame = width, height

    def analyze(
        self, indexes: Sequence[int], gate: str, *, embed: bool = True, thorough: bool = True
    ) -> list[Face]:
        """All values of the faces of these indexes."""
        located = [self._located[index] for index in indexes]
        faces = self._models.analyze(
            self._image, located, gate=GATES[gate], embed=embed, thorough=thorough
        )
        return [_enlarged(face, self._reduction) for face in faces]

    def certainty(self, index: int) -> float:
        """The certainty that the detection of this index is a face, 0 to 1."""
        return self._models.certainty(self._image, self._located[index])


def _enlarged(face: _Located, reduction: int) -> _Located:
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


def _area(face: LocatedFace) -> float:
    x1, y1, x2, y2 = (float(value) for value in np.asarray(face.box))
    return (x2 - x1) * (y2 - y1)
