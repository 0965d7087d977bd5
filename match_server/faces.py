"""The face models as this server uses them: known by name at once, opened when first needed."""

import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np

from models.quality import DOORWAY, OFF, PASSPORT, Gate
from models.types import BgrImage, Face
from shared.errors import NoFace

GATES: dict[str, Gate] = {"doorway": DOORWAY, "passport": PASSPORT, "off": OFF}


class Analyzer(Protocol):
    """What this server asks of face models."""

    def analyze(self, image: BgrImage, *, gate: Gate = ..., embed: bool = True) -> list[Face]:
        """All faces of one picture; templates as one batch."""
        ...


class FaceEngine:
    """The models of one process.

    They are opened by the first picture, after the worker has forked (sessions do not survive a
    fork), and by one thread. One picture is looked at at a time: the models use the cores that
    there are, and two pictures at once would only double the memory.
    """

    def __init__(self, model_id: str, dimension: int, open_models: Callable[[], Analyzer]) -> None:
        self.model_id = model_id  # of every template that it makes
        self.dimension = dimension
        self._open = open_models
        self._lock = threading.Lock()
        self._models: Analyzer | None = None

    def open(self) -> None:
        """Open the models now. Raises PackError when they are not installed."""
        with self._lock:
            self._opened()

    def analyze(self, image: BgrImage, *, gate: str = "off", embed: bool = True) -> list[Face]:
        """All faces of a picture, largest first.

        Raises PackError when the models are not installed.
        """
        with self._lock:
            faces = self._opened().analyze(image, gate=GATES[gate], embed=embed)
        return sorted(faces, key=_area, reverse=True)

    def largest(self, image: BgrImage, *, gate: str = "off") -> tuple[Face, int]:
        """The largest face, and how many there are. Raises NoFace when there is none."""
        faces = self.analyze(image, gate=gate)
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


def _area(face: Face) -> float:
    x1, y1, x2, y2 = (float(value) for value in np.asarray(face.box))
    return (x2 - x1) * (y2 - y1)
