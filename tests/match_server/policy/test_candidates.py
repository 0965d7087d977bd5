"""The function that makes a decision from a ranked list."""

import pytest

from match_server.services.policy.candidates import Candidate, decide


def _list(*similarities):
    return [Candidate(n, f"p{n}", f"P{n}", f"t{n}", s) for n, s in enumerate(similarities)]


@pytest.mark.parametrize(
    ("similarities", "threshold", "margin", "decision"),
    [
        ((), 0.35, 0.0, "unknown"),
        ((0.34,), 0.35, 0.0, "unknown"),
        ((0.35,), 0.35, 0.0, "identified"),
        ((0.8, 0.8), 0.35, 0.0, "identified"),
        ((0.8, 0.76), 0.35, 0.05, "ambiguous"),
        ((0.8, 0.7), 0.35, 0.05, "identified"),
        ((0.36, 0.34), 0.35, 0.05, "ambiguous"),
        ((0.34, 0.33), 0.35, 0.05, "unknown"),
        ((0.9,), 0.35, 0.05, "identified"),
        ((-0.2,), -1.0, 0.0, "identified"),
    ],
)
def test_threshold_and_margin_decide(similarities, threshold, margin, decision):
    assert decide(_list(*similarities), threshold, margin) == decision
