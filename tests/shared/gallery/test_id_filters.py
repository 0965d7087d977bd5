"""Searches among some ids only, whatever the form in which these are given."""

from pathlib import Path

import numpy as np
import pytest

from shared.gallery import open_gallery
from shared.gallery.scan import Kernel
from tests.shared.gallery.conftest import random_rows

N, D = 9000, 32


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 6000, N])
def test_large_and_small_filters_give_what_remains_of_the_whole_list(
    kernel: Kernel, size: int
) -> None:
    rng = np.random.default_rng(size)
    rows, ids = random_rows(N, D), rng.permutation(3 * N)[:N].astype(np.uint64)
    gallery = open_gallery(None, D, kernel=kernel)
    for part in (slice(0, 5000), slice(5000, N)):
        gallery.add(ids[part], rows[part])
    among = rng.permutation(ids)[:size]
    probe = random_rows(1, D, seed=1)
    for turn in range(3):  # the second time large filters are known, the third the gallery changed
        everything = gallery.search(probe, N)[0]
        kept = np.isin(everything.ids, among)
        candidates = gallery.search(probe, N, among=among)[0]
        assert candidates.ids.tolist() == everything.ids[kept].tolist()
        assert candidates.similarities.tobytes() == everything.similarities[kept].tobytes()
        if turn:
            gallery.remove(ids[: 500 * turn])
            gallery.add(ids[: 200 * turn], rows[: 200 * turn])


def test_ids_that_come_twice_or_are_unknown_do_no_harm(kernel: Kernel) -> None:
    rows = random_rows(50, D)
    gallery = open_gallery(None, D, kernel=kernel)
    gallery.add(np.arange(50, dtype=np.uint64), rows)
    among = np.array([7, 2**63, 7, 3, 3, 999, 7], dtype=np.uint64)
    candidates = gallery.search(rows[7:8], 10, among=among)[0]
    assert candidates.ids.tolist() == [7, 3]


def test_a_filter_that_its_caller_changes_afterwards_is_another_filter(kernel: Kernel) -> None:
    rows = random_rows(N, D)
    gallery = open_gallery(None, D, kernel=kernel)
    gallery.add(np.arange(N, dtype=np.uint64), rows)
    among = np.arange(5000, dtype=np.uint64)
    assert gallery.search(rows[:1], 1, among=among)[0].ids.tolist() == [0]
    among += np.uint64(4000)
    assert gallery.search(rows[:1], 1, among=among)[0].ids.tolist() != [0]
    assert gallery.search(rows[4000:4001], 1, among=among)[0].ids.tolist() == [4000]


def test_the_filter_works_in_segments(kernel: Kernel, tmp_path: Path) -> None:
    gallery = open_gallery(tmp_path / "g", D, kernel=kernel)
    rows = random_rows(N, D)
    gallery.rebuild([(np.arange(N, dtype=np.uint64), rows)], 1)
    among = np.arange(0, N, 2, dtype=np.uint64)
    for turn in range(2):
        candidates = gallery.search(rows[[10, 11]], 1, among=among[::-1])
        assert candidates[0].ids.tolist() == [10]
        assert candidates[1].ids[0] % 2 == 0
        gallery.add(np.array([N + turn], dtype=np.uint64), rows[:1])
