"""Enrolls four people over HTTP, with one picture each."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import requests

from demo.cast import ENROLLED, Person
from demo.processes import DemoError
from models.samples import sample_path

_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The server's response to one enrollment."""

    person: Person
    quality: float  # 0..1
    reasons: list[str]  # quality factors that did not pass, and were waived


def enroll_all(url: str, key: str) -> Iterator[Enrolled]:
    """Enrolls the cast. Raises DemoError if the server refuses a picture."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {key}"
    for person in ENROLLED:
        created = session.post(
            f"{url}/v1/collections/default/persons", json={"name": person.name}, timeout=_TIMEOUT_S
        )
        _require_ok(created, person)
        # The driver's film is 176 pixels wide, less than a passport photo should be: where the
        # quality gate refuses it, the operator of the demo insists, as an operator may.
        images = f"{url}/v1/collections/default/persons/{created.json()['id']}/images"
        picture = {"image": (person.enrolled_from, picture_bytes(person))}
        answer = session.post(images, files=picture, data={"store": "1"}, timeout=_TIMEOUT_S)
        if answer.status_code == 422 and answer.json()["code"] == "quality_refused":
            forced = {"store": "1", "force": "1"}
            answer = session.post(images, files=picture, data=forced, timeout=_TIMEOUT_S)
        _require_ok(answer, person)
        quality = answer.json()["quality"]
        reasons = [factor["name"] for factor in quality["factors"] if not factor["passed"]]
        yield Enrolled(person, quality["score"], reasons)


def picture_bytes(person: Person) -> bytes:
    """Returns the picture, or the frame of the sample video, as the bytes of a file."""
    name, _, frame = person.enrolled_from.partition("@")
    path = sample_path(name)
    return _frame_png(path, int(frame)) if frame else path.read_bytes()


def _frame_png(film: Path, index: int) -> bytes:
    capture = cv2.VideoCapture(str(film))
    capture.set(cv2.CAP_PROP_POS_FRAMES, index)
    read, image = capture.read()
    capture.release()
    if not read:
        raise DemoError(f"{film.name} has no frame {index}")
    return cv2.imencode(".png", image)[1].tobytes()


def _require_ok(answer: requests.Response, person: Person) -> None:
    if not answer.ok:
        raise DemoError(f"{person.name} could not be enrolled: {answer.status_code} {answer.text}")
