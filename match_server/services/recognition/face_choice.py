"""Which face of a picture an enrollment means: said by the call, or the only one of its size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import JsonValue

from models.types import Face
from shared.errors import MalformedInput, NoFace, SeveralFaces

LIKE_SIZE = 0.8
"""A face of at least this share of the largest one's size is of like size (decision 34)."""

LIKE_SIZE_OFF_CENTRE = 0.65
"""... where the largest is not in the middle of the picture: who is meant most often is."""

LIKE_SIZE_CUT_OFF = 0.5
"""... where the largest is cut off by the picture's edge: then it is hardly the one meant."""

_OFF_CENTRE = 0.3  # of a face's size, from the picture's middle
_CUT_OFF = 0.05  # of a face's size: so close to the picture's edge a box is taken for cut off

SURE_FACE = 0.5
"""Certainty from which something that was found is taken for a face (decision 34)."""

LEAST_OVERLAP = 0.3  # of a box that a call gives with the face that it means, as IoU
_MOST_LISTED = 50

Box = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels

Certainty = Callable[[int], float]
"""How surely the face of this index is one, 0 to 1; asked only where it matters."""


@dataclass(frozen=True, slots=True)
class FaceChoice:
    """What a call says of the face that it means; by default nothing."""

    face: int | Literal["largest"] | None = None  # an index in the order of `detect`
    box: Box | None = None  # x1 y1 x2 y2, pixels

    @property
    def is_given(self) -> bool:
        return self.face is not None or self.box is not None


@dataclass(frozen=True, slots=True, eq=False)
class ChosenFace:
    """The face that is enrolled."""

    face: Face
    index: int  # in the order of `detect`: largest first
    faces: int  # found in the picture
    certainty: float  # 0..1


def choose_face(
    faces: Sequence[Face],
    frame: tuple[int, int],
    choice: FaceChoice,
    certainty: Certainty,
    *,
    force: bool = False,
) -> ChosenFace:
    """The face that is meant, of faces in the order of `detect` in a picture of size `frame`.

    Without a choice it is the largest sure face. Raises SeveralFaces where another sure face is of
    like size, and not cut off by the picture's edge; NoFace where there is none, or (unless
    `force`) none that is surely a face; MalformedInput for a choice that fits no face.
    """
    if not faces:
        raise NoFace(
            "no face was found in the picture; a face should be upright, lit from the front "
            "and at least a twentieth of the picture wide",
            reasons=["no_face"],
        )
    if choice.box is not None:
        index = _overlapping(faces, choice.box)
    elif isinstance(choice.face, int):
        index = choice.face
        if index >= len(faces):
            raise MalformedInput(
                f"face: the picture shows {len(faces)} faces, so the last index is "
                f"{len(faces) - 1}",
                faces=listed(faces),
            )
    else:
        return _largest(faces, frame, certainty, any_size=choice.face == "largest", force=force)
    sure = certainty(index)
    if sure < SURE_FACE and not force:
        raise _doubtful(faces, sure)
    return ChosenFace(faces[index], index, len(faces), sure)


def obstacles(faces: Sequence[Face], frame: tuple[int, int]) -> list[str]:
    """Why nobody should be created from the first of these faces, whose certainties are known."""
    try:
        choose_face(faces, frame, FaceChoice(), lambda index: faces[index].certainty or 0.0)
    except (NoFace, SeveralFaces) as error:
        reasons: list[str] = [str(reason) for reason in error.details["reasons"]]  # type: ignore[union-attr]
        return reasons
    sure = faces[0].certainty or 0.0
    return [] if sure >= SURE_FACE else ["doubtful_face"]


def listed(faces: Sequence[Face]) -> list[JsonValue]:
    """The faces of a picture as an error lists them, so that a call can say which it means."""
    return [
        {
            "index": index,
            "box": [round(float(value), 1) for value in face.box],
            "score": round(float(face.score), 4),
        }
        for index, face in enumerate(faces[:_MOST_LISTED])
    ]


def _largest(
    faces: Sequence[Face],
    frame: tuple[int, int],
    certainty: Certainty,
    *,
    any_size: bool,
    force: bool,
) -> ChosenFace:
    """The largest sure face. Certainties are asked in the order of size, as few as will do."""
    chosen: ChosenFace | None = None
    best = 0.0
    for index, face in enumerate(faces):
        if chosen is not None and (any_size or not _is_like(chosen.face, face, frame)):
            continue
        sure = certainty(index)
        best = max(best, sure)
        if sure < SURE_FACE:
            continue
        if chosen is not None:
            raise SeveralFaces(
                f"the picture shows {len(faces)} faces, several of like size: say which one is "
                "meant by `face` (its index), `box` or face=largest",
                reasons=["several_faces"],
                faces=listed(faces),
            )
        chosen = ChosenFace(face, index, len(faces), sure)
    if chosen is not None:
        return chosen
    if force:
        return ChosenFace(faces[0], 0, len(faces), best)
    raise _doubtful(faces, best)


def _is_like(largest: Face, other: Face, frame: tuple[int, int]) -> bool:
    """Whether another face may be meant as well as the largest: by size, and whole."""
    if _is_cut_off(largest, frame):
        return size_of(other) >= LIKE_SIZE_CUT_OFF * size_of(largest)
    least = LIKE_SIZE_OFF_CENTRE if _is_off_centre(largest, frame) else LIKE_SIZE
    return size_of(other) >= least * size_of(largest) and not _is_cut_off(other, frame)


def _is_off_centre(face: Face, frame: tuple[int, int]) -> bool:
    x1, y1, x2, y2 = _box_of(face)
    away = np.hypot((x1 + x2 - frame[0]) / 2, (y1 + y2 - frame[1]) / 2)
    return bool(away > _OFF_CENTRE * size_of(face))


def _is_cut_off(face: Face, frame: tuple[int, int]) -> bool:
    x1, y1, x2, y2 = _box_of(face)
    return min(x1, y1, frame[0] - x2, frame[1] - y2) < _CUT_OFF * size_of(face)


def size_of(face: Face) -> float:
    """Side of a square as large as the face's box, in pixels."""
    width, height = np.maximum(face.box[2:] - face.box[:2], 0.0)
    return float(np.sqrt(width * height))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other))
    return width * height / (areas - width * height)


def _overlapping(faces: Sequence[Face], box: Box) -> int:
    """The face that overlaps a box most. Raises MalformedInput where none does."""
    overlaps = [overlap(_box_of(face), box) for face in faces]
    best = int(np.argmax(overlaps))
    if overlaps[best] < LEAST_OVERLAP:
        raise MalformedInput("box: no face of the picture lies there", faces=listed(faces))
    return best


def _box_of(face: Face) -> Box:
    x1, y1, x2, y2 = (float(value) for value in face.box)
    return x1, y1, x2, y2


def _doubtful(faces: Sequence[Face], certainty: float) -> NoFace:
    return NoFace(
        "what was found in the picture is hardly a face "
        f"(certainty {certainty:.2f}, at least {SURE_FACE} is asked); take another picture, or "
        "pass force=1",
        reasons=["doubtful_face"],
        certainty=round(certainty, 3),
        faces=listed(faces),
    )
