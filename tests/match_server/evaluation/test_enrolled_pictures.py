"""FNIR by the number of enrolled pictures."""

import numpy as np

from match_server.evaluation.enrolled_pictures import fnir_by_enrolled_pictures
from match_server.evaluation.folder import ReadFolder


def _folder(pictures, noise=1.3, dimension=64):
    """Returns random templates: so many of each person, around a direction of the person."""
    random = np.random.default_rng(5)
    persons = np.repeat(np.arange(len(pictures)), pictures)
    middles = random.normal(size=(len(pictures), dimension))
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    rows = middles[persons] + noise * random.normal(size=(len(persons), dimension)) / 8
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return ReadFolder(
        rows=rows.astype(np.float16),
        persons=persons,
        files=[f"{place}.png" for place in range(len(persons))],
        names=[f"p{place}" for place in range(len(pictures))],
        qualities=np.ones(len(persons), np.float32),
        sides=np.full(len(persons), 100, np.float32),
        refused=[],
    )


def test_more_pictures_miss_fewer():
    one, two, three = fnir_by_enrolled_pictures(_folder([5] * 60 + [1] * 300))
    assert 0.05 < one < 0.95
    assert one > two > three


def test_alike_pictures_are_never_missed():
    assert fnir_by_enrolled_pictures(_folder([4] * 40 + [1] * 100, noise=0.05)) == [0, 0, 0]


def test_too_few_persons_or_no_strangers_give_no_figure():
    assert fnir_by_enrolled_pictures(_folder([4] * 29 + [1] * 100)) is None
    assert fnir_by_enrolled_pictures(_folder([4] * 40)) is None
