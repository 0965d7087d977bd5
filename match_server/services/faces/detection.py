"""The stored parts of a face in a picture: its template and its detection."""

from dataclasses import replace

from match_server.schemas.persons import Detection
from match_server.services.faces.face_choice import ChosenFace
from models.types import Face
from shared.wire.template import Template

_PIXEL_DECIMALS = 1


def detection_of(face: Face, count: int, index: int = 0) -> Detection:
    """The rounded position of a face, and its index among `count` faces of the picture."""
    points = face.points5 if face.points68 is None else face.points68
    x1, y1, x2, y2 = (round(float(value), _PIXEL_DECIMALS) for value in face.box)
    return Detection(
        box=(x1, y1, x2, y2),
        score=min(max(float(face.score), 0.0), 1.0),
        landmarks=[
            (round(float(x), _PIXEL_DECIMALS), round(float(y), _PIXEL_DECIMALS)) for x, y in points
        ],
        pose=face.pose,
        liveness=face.liveness,
        faces=count,
        face=index,
        certainty=None if face.certainty is None else round(face.certainty, 3),
    )


def detection_of_chosen(chosen: ChosenFace) -> Detection:
    """The rounded position of the chosen face, and its index among the faces of the picture."""
    face = replace(chosen.face, certainty=chosen.certainty)
    return detection_of(face, chosen.faces, chosen.index)


def embedded(face: Face) -> Template:
    """The template of a face that was analyzed with `embed`."""
    if face.template is None:
        raise RuntimeError("the face models returned a face without a template")
    return face.template
