"""A policy's target is met for strangers, at every size of the gallery."""

from datetime import UTC, datetime

import numpy as np
import pytest

from match_server.calibration.calibration import Calibration, fpir_for_fmr
from match_server.schemas.collections import stored_policy
from match_server.services.collection_ref import CollectionRef
from match_server.services.policy.operating_point import (
    LOOSEST_FMR,
    LOOSEST_FPIR,
    Traffic,
    operating_point,
)
from match_server.services.policy.operating_point_view import view_of

STRANGERS = 4000
NO_TRAFFIC = Traffic(None, None)


def _scope(policy: dict, templates: int) -> CollectionRef:
    moment = datetime(2026, 11, 22, tzinfo=UTC)
    counts = templates, templates
    return CollectionRef(1, "c", "some@1", 128, 0, False, moment, 1, *counts, stored_policy(policy))


@pytest.fixture(scope="module")
def world(people):
    """A calibration of 250 persons; for 4,000 strangers their most similar of 10,000 persons."""
    rows, persons = people.faces(20, 250, 4)
    calibration = Calibration(people.calibrated(people.compare(rows, persons)))
    gallery, _ = people.faces(21, 10_000, 1)
    strangers, _ = people.faces(22, STRANGERS, 1)
    best = {}
    for size in (20, 100, 1_000, 10_000):
        some = gallery[:size].astype(np.float32).T
        best[size] = (strangers.astype(np.float32) @ some).max(axis=1)
    return calibration, best


@pytest.mark.parametrize("target", [0.1, 0.02, 0.005])
@pytest.mark.parametrize("size", [20, 100, 1_000, 10_000])
def test_strangers_find_somebody_no_more_often_than_was_asked_for(world, size, target):
    calibration, best = world
    point = operating_point(_scope({"target_fpir": target}, size), calibration, NO_TRAFFIC)
    fpir = float((best[size] >= point.threshold).mean())
    print(f"N {size:6} target {target:.3%} measured {fpir:.3%} at {point.threshold:.4f} "
          f"{'extrapolated' if view_of(point).extrapolated else 'measured'}")  # fmt: skip
    spread = (target * (1 - target) / STRANGERS) ** 0.5
    # The rate is known to some 30 % where it rests on 30 comparisons.
    assert fpir <= 1.3 * target + 3 * spread
    if not view_of(point).extrapolated:
        reached = min(target, fpir_for_fmr(LOOSEST_FMR, size))  # a small gallery has a floor
        assert fpir >= reached / 3, "the threshold is needlessly high"
    assert view_of(point).fpir <= 1.05 * target


def test_false_alarms_a_day_are_those_of_the_traffic(world):
    calibration, best = world
    for alarms, traffic in ((5.0, 1000.0), (50.0, 1000.0)):
        policy = {"false_alarms_per_day": alarms, "traffic": traffic}
        expected_traffic = Traffic(traffic, "given")
        point = operating_point(_scope(policy, 1_000), calibration, expected_traffic)
        measured_alarms = float((best[1_000] >= point.threshold).mean()) * traffic
        assert measured_alarms <= 1.3 * alarms + 3 * (alarms * traffic / STRANGERS) ** 0.5
        assert view_of(point).false_alarms_per_day == pytest.approx(alarms, rel=0.05)


@pytest.mark.parametrize(
    "policy", [{"target_fpir": 0.01}, {"false_alarms_per_day": 2.0, "traffic": 500.0}]
)
def test_a_larger_gallery_never_lowers_the_threshold(world, policy):
    calibration, _ = world
    traffic = Traffic(policy.get("traffic"), "given")
    sizes = [0, 1, 2, 3, 10, 99, 100, 101, 1_000, 12_345, 10**6, 10**9, 10**12]
    points = [operating_point(_scope(policy, size), calibration, traffic) for size in sizes]
    thresholds = [one.threshold for one in points]
    assert thresholds == sorted(thresholds)
    assert thresholds[2] < thresholds[-4]
    assert all(threshold <= 1.0 for threshold in thresholds)


def test_more_searches_a_track_ask_for_a_higher_threshold(world):
    calibration, _ = world
    scope = _scope({"target_fpir": 0.01}, 1_000)
    one, three = (
        operating_point(scope, calibration, Traffic(100.0, "measured", probes))
        for probes in (1.0, 3.0)
    )
    assert three.threshold > one.threshold
    more = _scope({"target_fpir": 0.01}, 3_000)
    assert three.threshold == operating_point(more, calibration, NO_TRAFFIC).threshold


def test_hardly_any_traffic_does_not_open_the_door_to_everybody(world):
    calibration, _ = world
    for tracks in (0.0, 0.5, 3.0):
        scope = _scope({"false_alarms_per_day": 2.0}, 100)
        point = operating_point(scope, calibration, Traffic(tracks, "measured"))
        assert view_of(point).fpir <= LOOSEST_FPIR * 1.05


def test_without_its_calibration_a_derived_policy_names_nobody():
    for policy in ({"target_fpir": 0.01}, {"false_alarms_per_day": 1.0, "traffic": 50.0}):
        point = operating_point(_scope(policy, 100), None, NO_TRAFFIC)
        assert point.threshold == 1.0
        assert not view_of(point).reachable
        assert "nobody is named" in view_of(point).explanation


def test_a_fixed_threshold_stays_and_is_told_what_it_means(world):
    calibration, _ = world
    points = [
        operating_point(_scope({"threshold": 0.5}, size), calibration, NO_TRAFFIC)
        for size in (10, 10_000)
    ]
    assert [one.threshold for one in points] == [0.5, 0.5]
    assert view_of(points[1]).fpir > view_of(points[0]).fpir
    bare = operating_point(_scope({}, 10), None, NO_TRAFFIC)
    assert bare.threshold == 0.35
    assert view_of(bare).fpir is None
    assert view_of(bare).extrapolated is None
