"""The face models as this server uses them: known by name at once, opened when first needed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np

from match_server.services.recognition.decode_limit import PictureRoom
from match_server.services.recognition.face_choice import ChosenFace, FaceChoice, choose_face
from models.images.decoding import Picture, PictureLimits, open_picture
from models.quality.quality import DOORWAY, OFF, PASSPORT, Gate
from models.types import BgrImage, Face
from shared.errors import NoFace

GATES: dict[str, Gate] = {"doorway": DOORWAY, "passport": PASSPORT, "off": OFF}
_PICTURES_AT_ONCE = 2  # one is decoded while the models look at the other


class Analyzer(Protocol):
    """What this server asks of face models."""

    def analyze(self, image: BgrImage, *, gate: Gate = ..., embed: bool = True) -> list[Face]:
        """All faces of one picture; templates as one batch."""
        ...

    def certainty(self, image: BgrImage, face: Face) -> float:
        """How surely something that was found is a face, 0 to 1."""
        ...


class FaceEngine:
    """The models of one process, and what reading pictures for them may cost.

    They are opened by the first picture, after the worker has forked (sessions do not survive a
    fork), and by one thread. One picture is looked at at a time: the models use the cores that
    there are, and two pictures at once would only double the memory.
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
        self._room = PictureRoom(_PICTURES_AT_ONCE)
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
        with self._looking(picture, gate, embed=embed) as look:
            return look.faces

    def judged(self, picture: bytes, *, gate: str = "off") -> tuple[list[Face], tuple[int, int]]:
        """As `analyze`, each face with its certainty (some 20 ms a face); and the picture's size,
        width and height."""
        with self._looking(picture, gate) as look:
            faces = [
                replace(face, certainty=look.certainty(index))
                for index, face in enumerate(look.faces)
            ]
            return faces, look.frame

    def chosen(
        self, picture: bytes, choice: FaceChoice, *, gate: str = "off", force: bool = False
    ) -> ChosenFace:
        """The face of a picture that an enrollment means; raises as `choose_face`."""
        with self._looking(picture, gate) as look:
            return choose_face(look.faces, look.frame, choice, look.certainty, force=force)

    @contextmanager
    def _looking(self, picture: bytes, gate: str, *, embed: bool = True) -> Iterator["_Look"]:
        """A picture with its faces, while the models may be asked about it."""
        with self._room:
            seen = open_picture(picture, self._limits)
            with self._lock:
                models = self._opened()
                faces = models.analyze(seen.image, gate=GATES[gate], embed=embed)
                yield _Look(models, seen, sorted(faces, key=_area, reverse=True))

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


class _Look:
    """The faces of one picture, largest first, in the pixels of the file."""

    def __init__(self, models: Analyzer, seen: Picture, faces: list[Face]) -> None:
        self._models = models
        self._image = seen.image
        self._found = faces  # in the pixels of the image as it was read
        self.faces = [_enlarged(face, seen.reduction) for face in faces]
        height, width = (side * seen.reduction for side in seen.image.shape[:2])
        self.frame = width, height

    def certainty(self, index: int) -> float:
        """How surely one of them is a face, 0 to 1."""
        return self._models.certainty(self._image, self._found[index])


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
