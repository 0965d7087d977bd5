"""The people of the composed films: sample pictures, and MUSTER_TEST_FACES where it is set."""

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from models.face_models import FaceModels
from models.images.decoding import read_picture
from models.samples import sample_path
from models.types import BgrImage
from shared.errors import MusterError

_SAMPLES = {
    "obama": ["obama.jpg", "obama2.jpg", "obama3.jpg"],
    "biden": ["biden.jpg"],
    "collins": ["astronaut.png"],
    "hopper": ["grace_hopper.jpg"],
}
_AROUND = 2.4  # the cut-out is so many times the face
_FACE = 150  # pixels: no film here shows a face larger


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """A face with a margin, at a known scale."""

    person: str
    image: BgrImage
    face_width: float  # pixels of `image`


def cast(models: FaceModels) -> list[Portrait]:
    """All portraits in which exactly one large face is detected, by person and name of the file."""
    files = {name: [sample_path(one) for one in names] for name, names in _SAMPLES.items()}
    folder = os.environ.get("MUSTER_TEST_FACES")
    if folder:
        for person in sorted(path for path in Path(folder).iterdir() if path.is_dir()):
            if person.name != "groups":
                files[person.name] = sorted(person.iterdir())
    portraits = []
    for person_name, paths in files.items():
        for path in paths:
            portrait = portrait_of(models, person_name, path)
            if portrait is not None:
                portraits.append(portrait)
    return portraits


def portrait_of(models: FaceModels, person: str, path: Path) -> Portrait | None:
    """The largest face of a picture file; None where no face is detected."""
    try:
        picture = read_picture(path.read_bytes())
    except (MusterError, OSError):
        return None
    # With a margin, so that a face that fills its picture is detected.
    margin = max(picture.shape[:2]) // 2
    picture = cv2.copyMakeBorder(
        picture, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=(120, 124, 128)
    ).astype(np.uint8)
    detections = models.detect(picture)
    if not len(detections):
        return None
    sides = detections.boxes[:, 2] - detections.boxes[:, 0]
    x1, y1, x2, y2 = detections.boxes[int(sides.argmax())].tolist()
    half = _AROUND * max(x2 - x1, y2 - y1) / 2
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    left, top = (max(0, round(one - half)) for one in middle)
    part = picture[top : round(middle[1] + half), left : round(middle[0] + half)]
    scale = min(1.0, _FACE / (x2 - x1))
    small = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return Portrait(person, small.astype(np.uint8), (x2 - x1) * scale)
