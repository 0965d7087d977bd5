"""One set of models, used by several threads at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from models.face_models import FaceModels
from models.types import Face
from tests.models.conftest import sample

pytestmark = pytest.mark.models


def test_threads_that_share_models_get_what_one_alone_gets(faces: FaceModels) -> None:
    pictures = [sample(name) for name in ("obama.jpg", "biden.jpg", "astronaut.png")] * 4
    alone = [faces.analyze(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(faces.analyze, pictures))
    for mine, expected in zip(alone, together, strict=True):
        assert [vector(face).tolist() for face in mine] == [
            vector(face).tolist() for face in expected
        ]
        np.testing.assert_array_equal([face.box for face in mine], [face.box for face in expected])


def vector(face: Face) -> np.ndarray:
    assert face.template is not None
    return face.template.vector
