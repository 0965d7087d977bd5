"""Thresholds for rates, measured and extrapolated; likelihood ratios and probabilities."""

import json
import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from match_server.calibration.calibration import Calibration, fmr_for_fpir, fpir_for_fmr, limits_of
from match_server.calibration.comparisons import compare
from match_server.calibration.grid import BINS, edges
from match_server.calibration.likelihood import (
    _pool_adjacent_violators,
    cllr,
    least_cllr,
    match_probabilities,
)
from match_server.calibration.tail import fit_tail
from match_server.schemas.calibrations import CalibrationFile
from shared.errors import Unusable

RATES = st.floats(1e-12, 0.9)


def test_a_measured_threshold_is_that_of_the_distribution(normal):
    for fmr in (0.3, 0.1, 0.01, 1e-3, 1e-4):
        derived = normal.threshold_for(fmr)
        assert not derived.extrapolated
        assert derived.similarity == pytest.approx(-NormalDist(0, 0.07).inv_cdf(fmr), abs=0.003)


def test_beyond_what_was_measured_the_threshold_errs_on_the_safe_side(normal):
    for fmr in (1e-5, 1e-6, 1e-7, 1e-8, 1e-9):
        derived = normal.threshold_for(fmr)
        truth = -NormalDist(0, 0.07).inv_cdf(fmr)
        assert derived.extrapolated
        assert truth <= derived.similarity <= truth + 0.12


def test_an_exponential_tail_is_found_again(people):
    random = np.random.default_rng(5)
    scores = np.minimum(random.exponential(0.03, 400_000) - 0.2, 0.99)
    impostor = np.histogram(scores, bins=edges())[0]
    tail = fit_tail(people.compared_counts(impostor, impostor).impostor)
    assert tail.scale == pytest.approx(0.03, rel=0.15)
    truth = -0.2 + 0.03 * math.log(1e8)
    assert tail.threshold_for(1e-8) == pytest.approx(truth, abs=0.08)


@given(RATES, RATES)
@settings(deadline=None)
def test_a_lower_rate_never_has_a_lower_threshold(normal, one, two):
    low, high = sorted((one, two))
    assert normal.threshold_for(low).similarity >= normal.threshold_for(high).similarity


@given(st.floats(1e-9, 0.9))
@settings(deadline=None)
def test_at_the_threshold_for_a_rate_the_rate_is_not_exceeded(normal, fmr):
    derived = normal.threshold_for(fmr)
    assert normal.fmr_at(derived.similarity) <= fmr * 1.02


def test_thresholds_below_any_measurable_rate_are_above_every_impostor_seen(people):
    rows, persons = people.faces(6, 8, 5)
    compared = compare(rows, persons)
    calibration = Calibration(people.calibrated(compared))
    derived = calibration.threshold_for(0.5 / compared.impostor_moments.count)
    assert derived.extrapolated
    assert derived.similarity >= compared.lookalikes[0].similarity


def test_a_rate_that_no_similarity_reaches_is_said_to_be_out_of_reach(normal):
    for fmr in (1e-300, 0.0):
        derived = normal.threshold_for(fmr)
        assert derived.similarity == 1.0
        assert not derived.reachable


@given(st.floats(1e-6, 0.5), st.integers(1, 10**8))
def test_the_rate_for_a_gallery_brings_the_wanted_share_of_false_alarms(fpir, templates):
    fmr = fmr_for_fpir(fpir, templates)
    assert fpir_for_fmr(fmr, templates) == pytest.approx(fpir, rel=1e-9)
    assert fmr_for_fpir(fpir, templates + 1) < fmr


def test_likelihood_ratios_of_two_normals_are_the_line_that_they_must_be(people):
    sd, mean = 0.1, 0.5
    genuine = people.expected_counts(10**6, mean, sd)
    impostor = people.expected_counts(10**6, 0.0, sd)
    file = people.calibrated(people.compared_counts(genuine, impostor, persons=64))
    assert file.likelihood.slope == pytest.approx(mean / sd**2, rel=0.1)
    middle = -file.likelihood.offset / file.likelihood.slope
    assert middle == pytest.approx(mean / 2, abs=0.005)
    assert file.likelihood.cllr == pytest.approx(file.likelihood.least_cllr, abs=0.02)


def test_few_persons_support_no_bold_claims(people):
    rows, persons = people.faces(7, 8, 5)
    file = people.calibrated(compare(rows, persons))
    ratio = Calibration(file).likelihood
    assert math.exp(ratio.log_ratio(1.0)) <= (28 + 2) * (1 + 1e-5)
    assert math.exp(ratio.log_ratio(-1.0)) >= 1 / (8 + 2) * (1 - 1e-5)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_pooling_adjacent_violators_is_isotonic_regression(counts):
    counts = [(one, two) for one, two in counts if one + two] or [(1, 1)]
    mated = np.array([one for one, _ in counts], dtype=np.float64)
    other = np.array([two for _, two in counts], dtype=np.float64)
    shares = _pool_adjacent_violators(mated, other)
    for place in range(len(counts)):  # the min-max formula of isotonic regression
        best = max(
            min(
                mated[first : last + 1].sum() / (mated + other)[first : last + 1].sum()
                for last in range(place, len(counts))
            )
            for first in range(place + 1)
        )
        assert shares[place] == pytest.approx(best)


def test_a_ratio_that_says_nothing_costs_one_bit_and_the_best_costs_least(people):
    genuine = people.expected_counts(10_000, 0.4, 0.1)
    impostor = people.expected_counts(10_000, 0.0, 0.1)
    assert cllr(genuine, impostor, np.zeros(BINS)) == pytest.approx(1.0)
    best = least_cllr(genuine, impostor)
    for slope in (5.0, 20.0, 60.0):
        assert cllr(genuine, impostor, slope * (edges()[:-1] - 0.2)) >= best


RATIOS = st.lists(st.floats(-15, 15), min_size=1, max_size=10)


@given(RATIOS, st.integers(1, 10**7))
def test_probabilities_are_bayes_rule_over_everybody_it_can_be(ratios, persons):
    ratios = sorted(ratios, reverse=True)
    persons = max(persons, len(ratios))
    probabilities = match_probabilities(ratios, persons)
    odds = [0.5 / persons * math.exp(one) for one in ratios]
    unseen = (persons - len(ratios)) * 0.5 / persons * min(1.0, math.exp(ratios[-1]))
    for one, weight in zip(probabilities, odds, strict=True):
        assert one == pytest.approx(weight / (0.5 + sum(odds) + unseen), rel=1e-9)
        assert 0.0 <= one <= 1.0
    assert sum(probabilities) <= 1.0
    assert all(two <= one for one, two in pairwise(probabilities))


@given(RATIOS, st.integers(0, 9), st.floats(0, 10), st.integers(10, 10**6))
def test_who_is_more_alike_is_more_likely_and_less_so_among_more(ratios, place, more, persons):
    ratios = sorted(ratios, reverse=True)
    place %= len(ratios)
    higher = list(ratios)
    higher[place] += more
    assert match_probabilities(higher, persons)[place] >= (
        match_probabilities(ratios, persons)[place] * (1 - 1e-12)
    )
    assert match_probabilities(ratios, 10 * persons)[0] <= match_probabilities(ratios, persons)[0]


def test_stated_probabilities_come_true(people):
    """Of one-to-one comparisons said to match with probability p, the share p does."""
    random = np.random.default_rng(9)
    mean, sd, count = 0.4, 0.1, 200_000
    genuine = people.expected_counts(10**6, mean, sd)
    impostor = people.expected_counts(10**6, 0.0, sd)
    file = people.calibrated(people.compared_counts(genuine, impostor, persons=64))
    ratio = Calibration(file).likelihood
    mated = random.random(count) < 0.5
    scores = random.normal(np.where(mated, mean, 0.0), sd)
    log_ratios = [ratio.log_ratio(score) for score in scores[:20_000]]
    predicted = np.array([match_probabilities([each], 1)[0] for each in log_ratios])
    for low, high in pairwise(np.linspace(0.05, 0.95, 7)):
        inside = (predicted >= low) & (predicted < high)
        assert mated[:20_000][inside].mean() == pytest.approx(predicted[inside].mean(), abs=0.08)


def test_a_file_survives_being_written_and_read(normal_calibration):
    file = normal_calibration()
    again = CalibrationFile.model_validate_json(file.model_dump_json(), strict=True)
    assert again == file
    assert again.digest() == file.sha256


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda one: one["curves"]["fmr"].reverse(), "may not rise"),
        (lambda one: one["curves"]["fmr"].pop(), "not all of one length"),
        (lambda one: one["curves"]["thresholds"].reverse(), "does not rise"),
        (lambda one: one["tail"].update(scale=0), "greater than 0"),
        (lambda one: one["likelihood"].update(slope=-3), "greater than 0"),
        (lambda one: one["data"].update(persons=-1), "greater than or equal to 0"),
        (lambda one: one.update(names=["Ann"]), "not permitted"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(normal_calibration, change, why):
    content = json.loads(normal_calibration().model_dump_json())
    change(content)
    with pytest.raises(ValidationError, match=why):
        CalibrationFile.model_validate(content)


def test_limits_name_the_least_rate_that_can_be_measured(people):
    rows, persons = people.faces(8, 8, 5)
    text = " ".join(limits_of(people.calibrated(compare(rows, persons))))
    assert "700 impostor comparisons" in text
    assert "below one in 700 cannot be measured" in text
    assert "28 pairs of persons" in text


@pytest.mark.parametrize("persons", [[0, 1, 2], [0, 0, 0], [0]])
def test_pictures_that_allow_no_calibration_are_said_to(people, persons):
    rows, _ = people.faces(9, 3, 1)
    with pytest.raises(Unusable, match="at least two persons"):
        people.calibrated(compare(rows[: len(persons)], np.array(persons)))


def test_folders_that_are_not_a_person_each_are_noticed(people):
    rows, _ = people.faces(10, 2, 8)
    mixed = np.arange(16) % 2
    with pytest.raises(Unusable, match="does each folder hold one person"):
        people.calibrated(compare(rows, mixed))
