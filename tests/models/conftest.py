"""The opened models, folders of people, synthetic graphs, and a web server that misbehaves."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.face_models import FaceModels, open_models
from models.samples import sample_path
from models.types import BgrImage
from tests.support.fake_web import FarWeb


@pytest.fixture(scope="session")
def faces() -> FaceModels:
    """The default pack. Where it is not installed, this is an error and says what to run."""
    return open_models()


@pytest.fixture(scope="session")
def far_seeing() -> FaceModels:
    return open_models(detector="centerface")


@pytest.fixture(scope="session")
def people() -> Path:
    """A folder a person, and `groups` with pictures of several of them."""
    folder = os.environ.get("MUSTER_TEST_FACES")
    if folder is None:
        pytest.skip("MUSTER_TEST_FACES names no folder of people")
    return Path(folder)


@pytest.fixture(scope="session")
def obama() -> BgrImage:
    return sample("obama.jpg")


@pytest.fixture
def far_web() -> Iterator[FarWeb]:
    with FarWeb() as web:
        yield web


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261122)


def sample(name: str) -> BgrImage:
    return read(sample_path(name))


def read(path: Path) -> BgrImage:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise FileNotFoundError(path)
    pixels: NDArray[np.uint8] = picture.astype(np.uint8)
    return pixels
