"""The people of the demonstration and their pictures."""

from dataclasses import dataclass
from typing import Literal

LaneName = Literal["far left", "left", "right", "far right"]


@dataclass(frozen=True, slots=True)
class Person:
    """A person whom the server enrolls from one picture."""

    name: str
    enrolled_from: str  # a sample picture, or a frame of the sample video as `video@frame`


@dataclass(frozen=True, slots=True)
class Walk:
    """One passage of one person through the lobby film, always within one lane of the picture.

    The lane is the film's ground truth: a face in it at that moment is `name`.
    """

    name: str
    picture: str
    lane: LaneName
    from_s: float
    to_s: float
    face_px: tuple[int, int]  # width of the face on entering and on leaving, pixels
    light: float  # brightness factor
    mirrored: bool = False
    lean_degrees: float = 0.0
    squeeze: float = 0.0  # horizontal foreshortening, as if turned away; 0.1 is 10 %


SAMPLE_VIDEO = "carphone_pristine.mp4"

OBAMA = Person("Barack Obama", "obama.jpg")
BIDEN = Person("Joe Biden", "biden.jpg")
COLLINS = Person("Eileen Collins", "astronaut.png")
DRIVER = Person("The driver", f"{SAMPLE_VIDEO}@110")
ENROLLED = (OBAMA, BIDEN, COLLINS, DRIVER)

STRANGER = "Grace Hopper"  # walks through the lobby, is enrolled nowhere, must stay unknown

# Obama is seen in pictures that were taken on other days than the enrolled one. Of Biden and
# Collins the sample pack has one picture each: the film shows it mirrored, tilted, squeezed,
# relit and as small as a camera would, which is weaker evidence, and the README says so.
WALKS = (
    Walk(OBAMA.name, "obama2.jpg", "far left", 0.4, 5.6, (70, 120), 0.85),
    Walk(STRANGER, "grace_hopper.jpg", "far right", 1.4, 7.6, (80, 120), 1.0),
    Walk(BIDEN.name, "biden.jpg", "left", 3.2, 9.4, (66, 112), 1.15, True, 5.0, 0.08),
    Walk(COLLINS.name, "astronaut.png", "right", 6.0, 12.0, (72, 110), 0.75, True, -6.0, 0.06),
    Walk(OBAMA.name, "obama3.jpg", "far left", 8.0, 13.6, (70, 116), 1.1, True),
    Walk(STRANGER, "grace_hopper.jpg", "far right", 10.0, 14.2, (64, 96), 0.7, True, 4.0),
)
