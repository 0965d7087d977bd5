"""Chooses the face of a picture that is enrolled: by the request, or the only one of its size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import JsonValue

from models.types import Face, LocatedFace
from shared.errors import MalformedInput, NoFace, SeveralFaces

LIKE_SIZE = 0.8
"""A face with at least this share of the largest face's size is of like size (decision 34)."""

LIKE_SIZE_OFF_CENTRE = 0.65
"""The same where the largest face is off centre: the intended face is most often central."""

LIKE_SIZE_CUT_OFF = 0.5
"""The same where the picture's edge cuts off the largest face: it is rarely the intended face."""

_OFF_CENTRE = 0.3  # of a face's size, from the picture's middle
_CUT_OFF = 0.05  # of a face's size: a box this close to the picture's edge counts as cut off

SURE_FACE = 0.5
"""Certainty from which a detection counts as a face (decision 34)."""

LEAST_OVERLAP = 0.3  # of a requested box with a face, as intersection over union
_MOST_LISTED = 50

Box = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels

Certainty = Callable[[int], float]
"""The certainty that the detection of this index is a face, 0 to 1; called only where needed."""


@dataclass(frozen=True, slots=True)
class FaceChoice:
    """The face that a request chooses; by default it chooses none."""

    face: int | Literal["largest"] | None = None  # an index in the order of `detect`
    box: Box | None = None  # x1 y1 x2 y2, pixels

    @property
    def is_set(self) -> bool:
        return self.face is not None or self.box is not None


@dataclass(frozen=True, slots=True, eq=False)
class ChosenFace:
    """The face that is enrolled."""

    face: Face
    index: int  # in the order of `detect`: largest first
    faces: int  # detected in the picture
    certainty: float  # 0..1


def choose_face(
    faces: Sequence[LocatedFace],
    frame: tuple[int, int],
    choice: FaceChoice,
    certainty: Certainty,
    *,
    force: bool = False,
) -> tuple[int, float]:
    """Returns the index of the chosen face, and its certainty.

    `faces` are in the order of `detect`, in a picture of size `frame`. Without a choice it is the
    largest certain face. Raises SeveralFaces where another certain face is of like size and not cut
    off by the picture's edge; NoFace where there is none, or (unless `force`) none that is
    certainly a face; MalformedInput for a choice that fits no face.
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
    return index, sure


def obstacles(faces: Sequence[Face], frame: tuple[int, int]) -> list[str]:
    """The reasons not to create a person from the first of these faces.

    The faces have their certainties.
    """
    try:
        choose_face(faces, frame, FaceChoice(), lambda index: faces[index].certainty or 0.0)
    except (NoFace, SeveralFaces) as error:
        reasons: list[str] = [str(reason) for reason in error.details["reasons"]]  # type: ignore[union-attr]
        return reasons
    sure = faces[0].certainty or 0.0
    return [] if sure >= SURE_FACE else ["doubtful_face"]


def listed(faces: Sequence[LocatedFace]) -> list[JsonValue]:
    """The faces of a picture as an error lists them, so that a client can choose."""
    return [
        {
            "index": index,
            "box": [round(float(value), 1) for value in face.box],
            "score": round(float(face.score), 4),
        }
        for index, face in enumerate(faces[:_MOST_LISTED])
    ]


def _largest(
    faces: Sequence[LocatedFace],
    frame: tuple[int, int],
    certainty: Certainty,
    *,
    any_size: bool,
    force: bool,
) -> tuple[int, float]:
    """The index of the largest certain face, and its certainty.

    Certainties are computed in the order of size, as few as needed.
    """
    chosen: tuple[int, float] | None = None
    best = 0.0
    for index, face in enumerate(faces):
        if chosen is not None and (any_size or not _is_like(faces[chosen[0]], face, frame)):
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
        chosen = index, sure
    if chosen is not None:
        return chosen
    if force:
        return 0, best
    raise _doubtful(faces, best)


def _is_like(largest: LocatedFace, other: LocatedFace, frame: tuple[int, int]) -> bool:
    """Whether another face may be intended instead of the largest: of like size, and whole."""
    if _is_cut_off(largest, frame):
        return size_of(other) >= LIKE_SIZE_CUT_OFF * size_of(largest)
    least = LIKE_SIZE_OFF_CENTRE if _is_off_centre(largest, frame) else LIKE_SIZE
    return size_of(other) >= least * size_of(largest) and not _is_cut_off(other, frame)


def _is_off_centre(face: LocatedFace, frame: tuple[int, int]) -> bool:
    x1, y1, x2, y2 = box_of(face)
    away = np.hypot((x1 + x2 - frame[0]) / 2, (y1 + y2 - frame[1]) / 2)
    return bool(away > _OFF_CENTRE * size_of(face))


def _is_cut_off(face: LocatedFace, frame: tuple[int, int]) -> bool:
    x1, y1, x2, y2 = box_of(face)
    return min(x1, y1, frame[0] - x2, frame[1] - y2) < _CUT_OFF * size_of(face)


def size_of(face: LocatedFace) -> float:
    """Side of a square as large as the face's box, in pixels."""
    width, height = np.maximum(face.box[2:] - face.box[:2], 0.0)
    return float(np.sqrt(width * height))


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second))
    return width * height / (areas - width * height)


def _overlapping(faces: Sequence[LocatedFace], box: Box) -> int:
    """The face that overlaps a box most. Raises MalformedInput where none does."""
    overlaps = [overlap(box_of(face), box) for face in faces]
    best = int(np.argmax(overlaps))
    if overlaps[best] < LEAST_OVERLAP:
        raise MalformedInput("box: no face of the picture lies there", faces=listed(faces))
    return best


def box_of(face: LocatedFace) -> Box:
    x1, y1, x2, y2 = (float(value) for value in face.box)
    return x1, y1, x2, y2


def _doubtful(faces: Sequence[LocatedFace], certainty: float) -> NoFace:
    return NoFace(
        "what was found in the picture is hardly a face "
        f"(certainty {certainty:.2f}, at least {SURE_FACE} is asked); take another picture, or "
        "pass force=1",
        reasons=["doubtful_face"],
        certainty=round(certainty, 3),
        faces=listed(faces),
    )
