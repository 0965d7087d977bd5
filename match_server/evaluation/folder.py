"""Reads a folder of pictures, with a folder for each person, into templates."""

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from match_server.picture_folder import printable_name
from match_server.schemas.collections import GateName
from models.types import Face
from shared.errors import (
    ConfigurationError,
    InternalError,
    MusterError,
    NoFace,
    QualityRefused,
    TooLarge,
    Unusable,
)

log = logging.getLogger(__name__)

_BYSTANDER = 0.5
"""With a second face of at least this share of the first, it is unclear whose picture it is."""


class FaceModels(Protocol):
    """The face models that are evaluated."""

    @property
    def dimension(self) -> int: ...

    def analyze(self, data: bytes, *, gate: GateName) -> list[Face]:
        """Returns all faces of an encoded picture, the largest first."""
        ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """A picture that was not compared, with the reasons."""

    file: str  # below the folder
    reasons: Sequence[str]
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class ReadFolder:
    """The usable pictures of a folder."""

    rows: NDArray[np.float16]  # (n, dimension) unit rows; nothing else is kept of a picture
    persons: NDArray[np.int64]  # (n,) indices of `names`
    files: Sequence[str]  # (n,) below the folder
    names: Sequence[str]
    qualities: NDArray[np.float32]  # (n,) scores, 0..1
    sides: NDArray[np.float32]  # (n,) side of a square as large as the face's box, pixels
    refused: Sequence[Refusal]


def read_folder(
    folder: Path,
    files: Sequence[Path],
    models: FaceModels,
    gate: GateName,
    *,
    max_bytes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ReadFolder:
    """Reads these pictures of a folder. Raises ConfigurationError when there are none.

    It uses pictures of one person only that pass `gate`. A file that is there twice counts once,
    since it would match itself perfectly.
    """
    if not files:
        raise ConfigurationError(f"there are no pictures in {folder}")
    rows = np.empty((len(files), models.dimension), dtype=np.float16)
    names: dict[str, int] = {}
    seen: dict[bytes, str] = {}
    persons, used, refused = list[int](), list[str](), list[Refusal]()
    qualities, sides = list[float](), list[float]()
    for place, path in enumerate(files):
        progress(place, len(files))
        name = printable_name(path.relative_to(folder))
        try:
            data = _content(path, folder, max_bytes)
            digest = hashlib.sha256(data).digest()
            if digest in seen:
                raise Unusable(f"is the same file as {seen[digest]}", reasons=["duplicate"])
            seen[digest] = name
            face, rows[len(used)] = _only_face(models, data, gate)
        except MusterError as error:
            details = error.details.get("reasons")
            reasons = list(map(str, details)) if isinstance(details, list) else [error.code]
            refused.append(Refusal(name, reasons, error.message))
        except Exception:  # a bug in a decoder must not end the evaluation
            log.exception("Failed to read a picture", extra={"file": name})
            internal = InternalError()
            refused.append(Refusal(name, [internal.code], internal.message))
        else:
            person = printable_name(Path(path.parent.name))
            persons.append(names.setdefault(person, len(names)))
            used.append(name)
            qualities.append(face.quality.score)
            sides.append(side_of(face))
    progress(len(files), len(files))
    return ReadFolder(
        rows=rows[: len(used)],
        persons=np.array(persons, dtype=np.int64),
        files=used,
        names=list(names),
        qualities=np.array(qualities, dtype=np.float32),
        sides=np.array(sides, dtype=np.float32),
        refused=refused,
    )


def _content(path: Path, folder: Path, max_bytes: int) -> bytes:
    if path.parent == folder:
        raise Unusable("lies in no person's folder", reasons=["no_person"])
    try:
        if path.stat().st_size > max_bytes:
            raise TooLarge(f"is larger than {max_bytes} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot be read: {error.strerror}") from error


def _only_face(models: FaceModels, data: bytes, gate: GateName) -> tuple[Face, NDArray[np.float32]]:
    """Returns the only face of a picture, and its template."""
    detected = models.analyze(data, gate=gate)
    if not detected:
        raise NoFace("no face was found", reasons=["no_face"])
    if len(detected) > 1 and side_of(detected[1]) >= _BYSTANDER * side_of(detected[0]):
        raise Unusable(
            f"{len(detected)} faces of similar size: it is not clear whose picture it is",
            reasons=["EXCEEDS_MAX_FACES"],
        )
    face = detected[0]
    if not face.quality.passed:
        reasons = face.quality.reasons
        raise QualityRefused("the quality is too low: " + ", ".join(reasons), reasons=[*reasons])
    if face.template is None:
        raise RuntimeError("the face models returned a face without a template")
    return face, face.template.vector


def side_of(face: Face) -> float:
    """Returns the side of a square as large as the face's box, in pixels."""
    x1, y1, x2, y2 = (float(value) for value in face.box)
    return math.sqrt(max(x2 - x1, 0.0) * max(y2 - y1, 0.0))
