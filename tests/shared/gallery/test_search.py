"""Every list must be the oracle's, whatever the gallery looks like."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import Conflict, MalformedInput
from shared.gallery import open_gallery
from shared.gallery.scan import Kernel
from tests.shared.gallery.conftest import Oracle, Rows, assert_same, random_rows, unit

COUNTS = [0, 1, 2, 15, 16, 17, 31, 33, 100, 200]
DIMENSIONS = [1, 2, 3, 64, 127, 128, 129, 300, 512]
THRESHOLDS = [-1.0, -0.9, -0.1, 0.0, 0.1, 0.35, 0.5, 0.999, 1.0]

Shape = Callable[[np.random.Generator, int, int], Rows]


def _random(rng: np.random.Generator, n: int, d: int) -> Rows:
    return unit(rng.standard_normal((n, d)))


def _duplicates(rng: np.random.Generator, n: int, d: int) -> Rows:
    return unit(rng.standard_normal((3, d)))[rng.integers(0, 3, n)]


def _all_equal(rng: np.random.Generator, n: int, d: int) -> Rows:
    return np.repeat(unit(rng.standard_normal((1, d))), n, axis=0)


def _near_ties(rng: np.random.Generator, n: int, d: int) -> Rows:
    """Rows that differ by a last bit of one float16 coordinate."""
    rows = np.repeat(unit(rng.standard_normal((1, d))).astype(np.float16), n, axis=0)
    touched = rng.integers(0, d, n)
    bits = rows.view(np.uint16)
    bits[np.arange(n), touched] ^= 1
    return rows.astype(np.float32)


def _dominant_coordinate(rng: np.random.Generator, n: int, d: int) -> Rows:
    rows = rng.standard_normal((n, d)) * 1e-4
    rows[np.arange(n), rng.integers(0, min(d, 2), n)] = rng.choice([-1.0, 1.0], n)
    return unit(rows)


def _axes(rng: np.random.Generator, n: int, d: int) -> Rows:
    """One-hot rows: most similarities are exactly zero, many exactly equal."""
    rows = np.zeros((n, d))
    rows[np.arange(n), rng.integers(0, d, n)] = rng.choice([-1.0, 1.0], n)
    return unit(rows)


def _clustered(rng: np.random.Generator, n: int, d: int) -> Rows:
    people = rng.standard_normal((max(n // 5, 1), d))
    return unit(people[rng.integers(0, len(people), n)] + 0.3 * rng.standard_normal((n, d)))


def _opposite(rng: np.random.Generator, n: int, d: int) -> Rows:
    """All similarities to the first row's neighbourhood are negative, or all positive."""
    centre = rng.standard_normal((1, d))
    return unit(centre * rng.choice([-1.0, 1.0]) + 0.2 * rng.standard_normal((n, d)))


def _tiny_coordinates(rng: np.random.Generator, n: int, d: int) -> Rows:
    """Coordinates that are subnormal as float16."""
    rows = rng.standard_normal((n, d)) * rng.choice([1e-7, 1e-5, 1.0], (n, d))
    return unit(rows)


SHAPES: list[Shape] = [
    _random,
    _duplicates,
    _all_equal,
    _near_ties,
    _dominant_coordinate,
    _axes,
    _clustered,
    _opposite,
    _tiny_coordinates,
]


@settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_every_list_is_the_one_of_brute_force(kernel: Kernel, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n, d = data.draw(st.sampled_from(COUNTS)), data.draw(st.sampled_from(DIMENSIONS))
    rows = data.draw(st.sampled_from(SHAPES))(rng, n, d)
    ids = rng.permutation(4 * n + 1)[:n].astype(np.uint64)
    gallery, oracle = open_gallery(None, d, kernel=kernel, threads=2), Oracle()
    cut = int(rng.integers(0, n + 1))
    for part in (slice(0, cut), slice(cut, n)):
        gallery.add(ids[part], rows[part])
        oracle.add(ids[part], rows[part])
    gone = ids[rng.random(n) < data.draw(st.sampled_from([0, 0.3, 1]))]
    assert gallery.remove(gone) == gone.shape[0]
    oracle.remove(gone)
    assert len(gallery) == n - gone.shape[0]

    near = rows[rng.integers(0, n, 2)] if n else random_rows(2, d)
    probes = np.concatenate([near, -near[:1], unit(rng.standard_normal((2, d)))])
    limit = data.draw(st.sampled_from([1, 2, 10, n + 5]))
    threshold = data.draw(st.sampled_from(THRESHOLDS))
    among = data.draw(st.sampled_from([None, ids[:0], ids[:1], ids[: n // 2], ids]))
    results = gallery.search(probes, limit, threshold=threshold, among=among)
    for probe, candidates in zip(probes, results, strict=True):
        assert_same(candidates, oracle.search(probe, limit, threshold, among))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(SHAPES))
def test_a_threshold_that_is_met_exactly_lets_the_candidate_in(
    kernel: Kernel, seed: int, shape: Shape
) -> None:
    rng = np.random.default_rng(seed)
    rows = shape(rng, 50, 64)
    ids = np.arange(50, dtype=np.uint64)
    gallery, oracle = open_gallery(None, 64, kernel=kernel), Oracle()
    gallery.add(ids, rows)
    oracle.add(ids, rows)
    probe = unit(rng.standard_normal((1, 64)))
    for _, similarity in oracle.search(probe[0], 50)[::7]:
        results = gallery.search(probe, 50, threshold=similarity)[0]
        assert_same(results, oracle.search(probe[0], 50, similarity))


@pytest.mark.parametrize("count", [1023, 1024, 1025, 4097, 33000])
def test_galleries_of_several_chunks_and_shelves_agree_with_a_matrix_product(
    kernel: Kernel, count: int
) -> None:
    rows = random_rows(count, 128, seed=count)
    ids = np.random.default_rng(count).permutation(count * 3)[:count].astype(np.uint64)
    gallery = open_gallery(None, 128, kernel=kernel, threads=2)
    for start in range(0, count, 20000):
        gallery.add(ids[start : start + 20000], rows[start : start + 20000])
    probes = random_rows(20, 128, seed=1)
    similarities = probes.astype(np.float64) @ rows.astype(np.float16).astype(np.float64).T
    for limit, threshold in ((1, -1.0), (10, -1.0), (10, 0.25), (2000, 0.1)):
        results = gallery.search(probes, limit, threshold=threshold)
        for row, candidates in zip(similarities, results, strict=True):
            order = np.lexsort((ids, -row))
            order = order[row[order] >= threshold][:limit]
            assert candidates.ids.tolist() == ids[order].tolist()
            assert np.allclose(candidates.similarities, row[order], atol=1e-7, rtol=0)


def test_many_probes_at_once_get_what_each_would_get_alone(kernel: Kernel) -> None:
    rows = random_rows(3000, 128)
    gallery = open_gallery(None, 128, kernel=kernel, threads=2)
    gallery.add(np.arange(3000, dtype=np.uint64), rows)
    probes = random_rows(131, 128, seed=2)
    alone = [gallery.search(probe[None], 5)[0] for probe in probes]
    for count in (*range(2, 18), 131):
        together = gallery.search(probes[:count], 5)
        for mine, candidates in zip(alone[:count], together, strict=True):
            assert candidates.ids.tolist() == mine.ids.tolist()
            assert candidates.similarities.tobytes() == mine.similarities.tobytes()


def test_equal_rows_are_ranked_by_id_wherever_they_are_stored(kernel: Kernel) -> None:
    row = random_rows(1, 512)
    gallery = open_gallery(None, 512, kernel=kernel)
    ids = np.random.default_rng(0).permutation(100).astype(np.uint64)
    for each in ids:
        gallery.add(np.array([each]), row)
    assert gallery.search(row, 7)[0].ids.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_probes_of_any_length_are_ranked_by_their_products(kernel: Kernel) -> None:
    rows = random_rows(300, 64)
    gallery, oracle = open_gallery(None, 64, kernel=kernel), Oracle()
    gallery.add(np.arange(300, dtype=np.uint64), rows)
    oracle.add(np.arange(300, dtype=np.uint64), rows)
    for scale in (0.0, 1e-30, 1e-3, 7.0):
        probe = (rows[:1] * scale).astype(np.float32)
        assert_same(gallery.search(probe, 10)[0], oracle.search(probe[0], 10))


def test_ids_use_all_their_bits(kernel: Kernel) -> None:
    ids = np.array([2**64 - 1, 2**63, 2**53 + 1, 2**53, 0], dtype=np.uint64)
    gallery = open_gallery(None, 8, kernel=kernel)
    row = random_rows(1, 8)
    gallery.add(ids, np.repeat(row, 5, axis=0))
    assert gallery.search(row, 5)[0].ids.tolist() == sorted(ids.tolist())
    assert gallery.remove(ids[:1]) == 1
    assert gallery.search(row, 5)[0].ids.tolist() == sorted(ids[1:].tolist())


def test_no_probes_no_limit_and_an_empty_gallery_give_empty_lists(kernel: Kernel) -> None:
    gallery = open_gallery(None, 16, kernel=kernel)
    probe = random_rows(1, 16)
    assert [len(candidates) for candidates in gallery.search(probe, 10)] == [0]
    gallery.add(np.array([1], dtype=np.uint64), probe)
    assert gallery.search(probe[:0], 10) == []
    assert [len(candidates) for candidates in gallery.search(probe, 0)] == [0]
    assert gallery.search(probe, 10**12)[0].ids.tolist() == [1]


def test_what_does_not_fit_is_refused_and_changes_nothing(kernel: Kernel) -> None:
    gallery = open_gallery(None, 16, kernel=kernel)
    rows = random_rows(3, 16)
    ids = np.arange(3, dtype=np.uint64)
    gallery.add(ids, rows)
    for bad in (rows * 2, rows * np.nan, np.full_like(rows, np.inf), rows[:2], rows[:, :8]):
        with pytest.raises(MalformedInput):
            gallery.add(ids + np.uint64(10), bad)
    for taken in (ids, np.array([7, 7, 8], dtype=np.uint64), ids[::-1] + np.uint64(2)):
        with pytest.raises(Conflict):
            gallery.add(taken, rows)
    for probe in (rows[0], rows[:, :8], rows * np.nan, rows * np.inf):
        with pytest.raises(MalformedInput):
            gallery.search(probe, 1)
    with pytest.raises(MalformedInput):
        gallery.search(rows, -1)
    with pytest.raises(MalformedInput):
        gallery.search(rows, 1, threshold=float("nan"))
    assert len(gallery) == 3


def test_similarities_that_differ_in_their_last_bits_are_told_apart(kernel: Kernel) -> None:
    """Summed plainly, the small products of the first row would be lost beside its large one."""
    rows = np.zeros((2, 512), dtype=np.float32)
    rows[:, 0], rows[:, 511] = 0.5, np.sqrt(0.75)
    rows[0, 8:504:8] = 2.0**-14
    rows[1, 9:249:8] = 2.0**-14
    probe = np.full((1, 512), 2.0**-42, dtype=np.float32)
    probe[0, 0], probe[0, 511] = 1.0, 0.0
    gallery, oracle = open_gallery(None, 512, kernel=kernel), Oracle()
    ids = np.array([2, 1], dtype=np.uint64)
    gallery.add(ids, rows)
    oracle.add(ids, rows)
    (first, best), (second, next_best) = oracle.search(probe[0], 2)
    assert (first, second) == (2, 1)
    assert 0 < best - next_best < 1e-15
    assert gallery.search(probe, 2)[0].ids.tolist() == [2, 1]
