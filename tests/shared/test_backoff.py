"""Pauses between attempts double up to a limit, and jitter spreads them."""

import random

from shared.backoff import Backoff, retry_after_s
from shared.errors import Unavailable


def test_the_limit_doubles_with_each_failure_up_to_the_longest_pause() -> None:
    backoff = Backoff(0.5, 60.0)
    assert [backoff.limit_s(failures) for failures in (1, 2, 3, 7, 8, 9)] == [
        0.5,
        1.0,
        2.0,
        32.0,
        60.0,
        60.0,
    ]


def test_any_number_of_failures_has_a_finite_pause() -> None:
    assert Backoff(1.0, 300.0).pause_s(10**9) <= 300.0


def test_pauses_differ_and_lie_between_half_of_the_limit_and_the_limit() -> None:
    backoff = Backoff(1.0, 60.0, jitter=random.Random(7))
    pauses = [backoff.pause_s(3) for _ in range(100)]
    assert len(set(pauses)) == 100
    assert 2.0 <= min(pauses) < 2.2
    assert 3.8 < max(pauses) <= 4.0


def test_a_least_limit_applies_only_where_the_limit_is_lower() -> None:
    backoff = Backoff(1.0, 60.0, jitter=random.Random(7))
    assert 7.5 <= backoff.pause_s(1, at_least_s=15.0) <= 15.0
    assert 30.0 <= backoff.pause_s(50, at_least_s=15.0) <= 60.0


def test_the_pause_that_a_server_requested_is_read_from_its_error() -> None:
    assert retry_after_s(Unavailable("busy", retry_after_s=3)) == 3.0
    assert retry_after_s(Unavailable("busy", retry_after_s="soon")) == 0.0
    assert retry_after_s(Unavailable("busy")) == 0.0
