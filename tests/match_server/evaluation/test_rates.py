"""Error rates, compared with counting by hand and with known distributions."""

import tracemalloc
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from match_server.calibration.comparisons import MAX_GROUPS, compare
from match_server.calibration.grid import at_least, bins_of, edges
from match_server.evaluation.rates import equal_error, rates_of, zero_errors_bound


@st.composite
def _pictures(draw):
    """Returns templates of a few persons, in random order."""
    persons = draw(st.lists(st.integers(0, 4), min_size=2, max_size=14))
    seed = draw(st.integers(0, 2**32 - 1))
    rows = np.random.default_rng(seed).standard_normal((len(persons), 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    numbered = {person: number for number, person in enumerate(dict.fromkeys(persons))}
    return rows.astype(np.float16), np.array([numbered[one] for one in persons])


@given(_pictures())
@settings(max_examples=60, deadline=None)
def test_every_pair_is_counted_once_and_on_the_right_side(pictures):
    rows, persons = pictures
    compared = compare(rows, persons)
    exact = rows.astype(np.float32) @ rows.astype(np.float32).T
    genuine, impostor = [], []
    for one in range(len(rows)):
        for two in range(one + 1, len(rows)):
            (genuine if persons[one] == persons[two] else impostor).append(exact[one, two])
    assert compared.genuine_moments.count == len(genuine)
    assert compared.impostor_moments.count == len(impostor)
    counted = np.bincount(bins_of(np.array(genuine)), minlength=len(edges()) - 1)
    # A product in another order may round to the other side of an edge.
    assert np.abs((compared.genuine.sum(axis=0) - counted).cumsum()).max() <= 1
    assert compared.impostor.sum() == len(impostor)
    for row in range(len(rows)):
        same = [
            exact[row, two]
            for two in range(len(rows))
            if two != row and persons[two] == persons[row]
        ]
        others = [exact[row, two] for two in range(len(rows)) if persons[two] != persons[row]]
        for value, known in (
            (compared.mated_best[row], same),
            (compared.impostor_best[row], others),
        ):
            assert np.isnan(value) if not known else value == pytest.approx(max(known), abs=1e-6)
    if impostor:
        assert compared.lookalikes[0].similarity == pytest.approx(max(impostor), abs=1e-6)
    if genuine:
        worst = compared.unlike[0]
        assert worst.similarity == pytest.approx(min(genuine), abs=1e-6)


def test_tiles_do_not_change_what_is_counted(people, monkeypatch):
    rows, persons = people.faces(1, 30, 3)
    whole = compare(rows, persons)
    monkeypatch.setattr("match_server.calibration.comparisons._TILE_ROWS", 7)
    monkeypatch.setattr("match_server.calibration.comparisons._TILE_COLUMNS", 11)
    tiled = compare(rows, persons)
    assert (whole.genuine == tiled.genuine).all()
    assert (whole.impostor == tiled.impostor).all()
    assert np.allclose(whole.impostor_best, tiled.impostor_best, atol=1e-6)
    assert [pair.similarity for pair in whole.lookalikes] == pytest.approx(
        [pair.similarity for pair in tiled.lookalikes], abs=1e-6
    )


def test_memory_is_that_of_the_pictures_not_of_their_pairs(people):
    peaks = []
    for persons in (750, 1500):
        rows, who = people.faces(2, persons, 4, dimension=32)
        tracemalloc.start()
        compare(rows, who)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    pairs_bytes = 4 * (1500 * 4) ** 2 / 2  # 72 MB as float32
    assert peaks[1] - peaks[0] < pairs_bytes / 3


@pytest.mark.parametrize(("mean", "sd"), [(0.5, 0.1), (0.35, 0.08)])
def test_rates_of_normal_similarities_are_those_of_the_normal_distribution(people, mean, sd):
    genuine = people.expected_counts(1_000_000, mean, sd)
    impostor = people.expected_counts(1_000_000, 0.0, sd)
    rates = rates_of(people.compared_counts(genuine, impostor))
    for threshold in (0.1, 0.2, 0.3):
        place = round((threshold + 1) / 0.0025)
        assert rates.fmr.rate[place] == pytest.approx(
            1 - NormalDist(0.0, sd).cdf(threshold), rel=0.01, abs=3e-5
        )
        assert rates.fnmr.rate[place] == pytest.approx(
            NormalDist(mean, sd).cdf(threshold), rel=0.01, abs=3e-5
        )
    assert rates.d_prime.value == pytest.approx(mean / sd, rel=0.005)
    assert rates.eer.value == pytest.approx(NormalDist().cdf(-mean / sd / 2), rel=0.01)
    assert rates.eer.low <= rates.eer.value <= rates.eer.high


def test_searches_that_leave_one_out_are_those_of_brute_force(people):
    rows, persons = people.faces(3, 20, 3, dimension=16)
    rates = rates_of(compare(rows, persons))
    exact = rows.astype(np.float32) @ rows.astype(np.float32).T
    for threshold in (0.3, 0.5, 0.7, 0.8):
        alarms = misses = 0
        for probe in range(len(rows)):
            others = [two for two in range(len(rows)) if two != probe]
            strangers = max(exact[probe, two] for two in others if persons[two] != persons[probe])
            best = max(others, key=lambda two, probe=probe: exact[probe, two])
            alarms += strangers >= threshold
            hit = persons[best] == persons[probe] and exact[probe, best] >= threshold
            misses += not hit
        place = round((threshold + 1) / 0.0025)
        assert rates.fpir.rate[place] == pytest.approx(alarms / len(rows), abs=0.02)
        assert rates.fnir.rate[place] == pytest.approx(misses / len(rows), abs=0.02)


@given(st.integers(1, 10**6))
def test_nothing_seen_in_n_trials_bounds_the_rate_by_three_in_n(units):
    bound = zero_errors_bound(units)
    assert (1 - bound) ** units == pytest.approx(0.05, rel=1e-6)
    if units > 100:
        assert bound == pytest.approx(3 / units, rel=0.02)


def test_where_nothing_went_wrong_the_interval_is_that_of_so_few_persons(people):
    genuine = people.expected_counts(80, 0.8, 0.01)
    impostor = people.expected_counts(700, 0.0, 0.05)
    rates = rates_of(people.compared_counts(genuine, impostor, persons=8))
    place = round((0.5 + 1) / 0.0025)
    assert rates.fmr.rate[place] == 0
    assert rates.fmr.high[place] == pytest.approx(zero_errors_bound(28))
    assert rates.fnmr.high[place] == pytest.approx(zero_errors_bound(8))
    assert rates.eer.value == 0
    assert rates.eer.high >= zero_errors_bound(28)


def test_intervals_hold_the_truth_as_often_as_they_say_although_pictures_share_persons(monkeypatch):
    """Each person has a false non-match rate of their own: pictures are not independent."""
    monkeypatch.setattr("match_server.evaluation.rates.REPLICATES", 200)
    held = narrow = 0
    worlds, threshold = 60, round((0.4 + 1) / 0.0025)
    for seed in range(worlds):
        random = np.random.default_rng(seed)
        rows, persons = _moody_people(random, 40)
        rates = rates_of(compare(rows, persons), seed=seed)
        low, high = rates.fnmr.low[threshold], rates.fnmr.high[threshold]
        held += low <= _MOODY_FNMR <= high
        pairs, rate = 40 * 6, rates.fnmr.rate[threshold]
        half = 1.96 * (rate * (1 - rate) / pairs) ** 0.5
        narrow += rate - half <= _MOODY_FNMR <= rate + half
    assert held >= 0.85 * worlds
    assert narrow < held, "an interval over comparisons would have done as well"


_MOODY_FNMR = 0.25  # a quarter of the persons never match themselves, the others always


def _moody_people(random, persons):
    moody = random.random(persons) < _MOODY_FNMR
    own = random.standard_normal((persons, 64))
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    noise = random.standard_normal((persons, 4, 64)) / 8
    share = np.where(moody, 0.3, 0.95)[:, None, None]
    rows = (share * own[:, None] + np.sqrt(1 - share**2) * noise).reshape(-1, 64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16), np.repeat(np.arange(persons), 4)


def test_more_persons_than_groups_are_resampled_in_groups(people):
    rows, persons = people.faces(4, 3 * MAX_GROUPS, 2)
    compared = compare(rows, persons)
    assert compared.genuine.shape[0] == MAX_GROUPS
    assert np.bincount(compared.groups).tolist() == [6] * MAX_GROUPS
    rates = rates_of(compared)
    assert (rates.fmr.low <= rates.fmr.rate).all()
    assert (rates.fmr.rate <= rates.fmr.high).all()


def test_curves_that_cross_between_two_thresholds_meet_there():
    fmr = np.array([1.0, 0.4, 0.1, 0.0])
    fnmr = np.array([0.0, 0.1, 0.3, 1.0])
    assert equal_error(fmr, fnmr) == pytest.approx(0.22)


def test_reaching_a_threshold_counts_as_above_it():
    counts = np.bincount(bins_of(np.array([0.5, 0.25])), minlength=len(edges()) - 1)
    place = round((0.5 + 1) / 0.0025)
    assert at_least(counts)[place] == 1
    assert at_least(counts)[place + 1] == 0
