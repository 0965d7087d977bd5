"""Additions, removals and searches in any order, and from many threads at once."""

import os
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shared.errors import Conflict
from shared.gallery import MemoryIndex, MissingChanges, open_gallery
from shared.gallery.kernels import best_kernel
from tests.shared.gallery.conftest import Oracle, assert_same, random_rows

D = 32
POOL = random_rows(200, D, seed=5)
POOL[100:150] = POOL[:50]  # equal rows under different ids
SOME_IDS = st.lists(st.integers(0, 199), unique=True, max_size=40)


class Histories(RuleBasedStateMachine):
    """Random histories of one gallery, compared with the oracle after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.gallery = self.opened()
        self.oracle = Oracle()
        self.seq = 0

    def opened(self) -> MemoryIndex:
        return open_gallery(None, D, threads=1)

    @rule(some=SOME_IDS)
    def add(self, some: list[int]) -> None:
        ids = np.array(some, dtype=np.uint64)
        if self.oracle.rows.keys() & set(some):
            with pytest.raises(Conflict):
                self.gallery.add(ids, POOL[ids])
            return
        self.gallery.add(ids, POOL[ids])
        self.oracle.add(ids, POOL[ids])

    @rule(some=SOME_IDS)
    def remove(self, some: list[int]) -> None:
        ids = np.array(some, dtype=np.uint64)
        there = len(self.oracle.rows.keys() & set(some))
        assert self.gallery.remove(ids) == there
        self.oracle.remove(ids)

    @rule(removed=SOME_IDS, added=SOME_IDS, shift=st.integers(0, 199))
    def apply(self, removed: list[int], added: list[int], shift: int) -> None:
        """A change of the feed replaces what is there already."""
        gone, ids = (np.array(each, dtype=np.uint64) for each in (removed, added))
        rows = POOL[(ids + np.uint64(shift)) % 200]
        since = self.gallery.watermark
        assert self.gallery.apply(since, since + 1, remove=gone, ids=ids, vectors=rows)
        self.oracle.remove(gone)
        self.oracle.add(ids, rows)

    @rule()
    def apply_again_what_is_contained(self) -> None:
        assert not self.gallery.apply(0, self.gallery.watermark, remove=np.arange(200, dtype="u8"))

    @rule(gap=st.integers(1, 3))
    def apply_what_does_not_follow(self, gap: int) -> None:
        """Changes in between are missing: nothing is applied and the watermark stays."""
        watermark = self.gallery.watermark
        with pytest.raises(MissingChanges):
            self.gallery.apply(watermark + gap, watermark + 9, remove=np.arange(9, dtype="u8"))
        assert self.gallery.watermark == watermark

    @rule()
    def rebuild(self) -> None:
        ids = np.array(sorted(self.oracle.rows), dtype=np.uint64)
        rows = np.array([self.oracle.rows[each] for each in ids.tolist()], dtype=np.float16)
        half = ids.shape[0] // 2
        rows = rows.reshape(-1, D)
        batches = [(ids[:half], rows[:half]), (ids[half:], rows[half:])]
        self.gallery.rebuild(batches, self.gallery.watermark + 1)

    @invariant()
    def lists_are_the_oracles(self) -> None:
        assert len(self.gallery) == len(self.oracle.rows)
        probes = POOL[[0, 77]]
        for probe, candidates in zip(probes, self.gallery.search(probes, 7), strict=True):
            assert_same(candidates, self.oracle.search(probe, 7))
        among = np.arange(0, 200, 3, dtype=np.uint64)
        candidates = self.gallery.search(probes[:1], 200, threshold=0.0, among=among)[0]
        assert_same(candidates, self.oracle.search(probes[0], 200, 0.0, among))


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_tails_that_fill_up_become_shelves_and_shelves_are_merged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shared.gallery.mutable_segment.FULL", 64)
    monkeypatch.setattr("shared.gallery.memory_index.FULL", 64)
    monkeypatch.setattr("shared.gallery.memory_index._MAX_SMALL", 4)
    gallery, oracle = open_gallery(None, D), Oracle()
    rng = np.random.default_rng(0)
    rows = random_rows(3000, D)
    for start in range(0, 3000, 30):
        ids = np.arange(start, start + 30, dtype=np.uint64)
        gallery.add(ids, rows[start : start + 30])
        oracle.add(ids, rows[start : start + 30])
        gone = rng.integers(0, start + 30, 12).astype(np.uint64)
        gallery.remove(gone)
        oracle.remove(gone)
        back = np.unique(gone[:3])
        gallery.add(back, rows[back])
        oracle.add(back, rows[back])
        probe = rows[rng.integers(0, 3000)]
        assert_same(gallery.search(probe[None], 10)[0], oracle.search(probe, 10))
    gallery.close()
    assert len(gallery) == len(oracle.rows)
    assert len(gallery._views) < 30


def _together(tasks: list[Callable[[], None]]) -> None:
    """Runs all tasks at once and raises what any of them raised."""
    errors: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_searches_from_many_threads_see_whole_changes_only() -> None:
    """Writers move pairs of equal rows; a search finds both halves of a pair or neither."""
    pairs, fixed = random_rows(40, 64, seed=1), random_rows(500, 64, seed=2)
    gallery = open_gallery(None, 64, threads=2)
    gallery.add(np.arange(1000, 1500, dtype=np.uint64), fixed)
    done = threading.Event()

    def write(lane: int) -> None:
        for turn in range(60):
            for pair in range(lane, 40, 4):
                ids = np.array([2 * pair, 2 * pair + 1], dtype=np.uint64)
                if turn % 2 == 0:
                    gallery.add(ids, np.repeat(pairs[pair][None], 2, axis=0))
                else:
                    assert gallery.remove(ids) == 2

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not done.is_set():
            pair, other = int(rng.integers(40)), int(rng.integers(500))
            candidates = gallery.search(np.stack([pairs[pair], fixed[other]]), 3)
            hits = set(candidates[0].ids.tolist()) & {2 * pair, 2 * pair + 1}
            assert len(hits) in (0, 2)
            assert candidates[1].ids[0] == 1000 + other

    def all_writers() -> None:
        try:
            _together([lambda lane=lane: write(lane) for lane in range(4)])  # type: ignore[misc]
        finally:
            done.set()

    _together([all_writers, *(lambda seed=seed: read(seed) for seed in range(4))])  # type: ignore[misc]
    assert len(gallery) == 500


def test_a_search_sees_every_change_that_had_returned_before_it() -> None:
    gallery = open_gallery(None, 64, threads=2)
    rows = random_rows(400, 64)

    def own(lane: int) -> None:
        for i in range(lane, 400, 8):
            mine = np.array([i], dtype=np.uint64)
            gallery.add(mine, rows[i : i + 1])
            assert gallery.search(rows[i : i + 1], 1)[0].ids.tolist() == [i]
            gallery.remove(mine)
            assert i not in gallery.search(rows[i : i + 1], 1)[0].ids.tolist()

    _together([lambda lane=lane: own(lane) for lane in range(8)])  # type: ignore[misc]


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_the_kernel_works_in_a_forked_process() -> None:
    """Worker threads do not survive a fork; the child starts its own."""
    rows = random_rows(150_000, 64)
    gallery = open_gallery(None, 64, threads=2)
    gallery.add(np.arange(150_000, dtype=np.uint64), rows)
    expected = gallery.search(rows[:4], 3)
    child = os.fork()
    if child == 0:
        candidates = gallery.search(rows[:4], 3)
        same = all(
            a.ids.tolist() == b.ids.tolist() for a, b in zip(candidates, expected, strict=True)
        )
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert best_kernel().name == gallery.kernel_name
