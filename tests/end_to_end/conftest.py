"""A real server for the end-to-end tests, and the folder of people if there is one."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests

from demo.processes import free_port
from tests.support.films import Actor, compose, shrunk
from tests.support.serving import key as create_key
from tests.support.serving import server
from tests.support.webcam import Webcam


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A match server on loopback with a fresh database."""

    url: str
    data: Path

    def session(self, role: str) -> requests.Session:
        """Returns a session with a new key of that role."""
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {create_key(self.data, role)}"
        return session


@pytest.fixture
def running_server(tmp_path: Path) -> Iterator[RunningServer]:
    data = tmp_path / "data"
    with server(tmp_path, data, free_port()) as url:
        yield RunningServer(url, data)


@pytest.fixture
def passers_by() -> Iterator[Webcam]:
    """A webcam that shows a person for two seconds, nobody for two seconds, and so on."""
    from models.samples import sample_path

    picture = cv2.imread(str(sample_path("obama.jpg")))
    if picture is None:
        raise RuntimeError("the sample cannot be read")
    face = shrunk(picture.astype(np.uint8))
    size = (640, 480)
    people = [
        compose([Actor(face, lambda time_s: (300 + 20 * time_s, 240.0, 300.0))], step / 10, size)
        for step in range(20)
    ]
    nobody = [compose([], 0.0, size)] * 20
    pictures = [cv2.imencode(".jpg", one)[1].tobytes() for one in (*people, *nobody)]
    camera = Webcam(pictures=pictures)
    yield camera
    if not camera.over.is_set():
        camera.close()


@pytest.fixture(scope="session")
def people() -> Path:
    """The folder of people: one for each with five pictures, and `groups` with several people."""
    folder = os.environ.get("MUSTER_TEST_FACES")
    if folder is None:
        pytest.skip("MUSTER_TEST_FACES names no folder of people")
    return Path(folder)
