"""Likelihood ratio of a similarity: how much likelier it is for mates than for strangers.

The logarithm of the ratio is a straight line in the similarity, fitted by logistic regression with
both kinds weighted equally (Brümmer and du Preez, "Application-independent evaluation of speaker
detection", 2006) and the smoothed targets of Platt ("Probabilistic outputs for support vector
machines", 1999). The ratio is limited to what the number of persons supports: by Laplace's rule of
succession, an event never seen in n trials has the probability 1 / (n + 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from match_server.calibration.grid import centres

MATED_SHARE = 0.5
"""Prior: half of the probes are of enrolled persons, each of these as likely as any other."""

_STEPS = 100
_CLOSE_ENOUGH = 1e-10

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LikelihoodRatio:
    """log LR(s) = slope * s + offset, limited to `lowest` … `highest`. Natural logarithms."""

    slope: float
    offset: float
    lowest: float
    highest: float

    def log_ratio(self, similarity: float) -> float:
        return min(max(self.slope * similarity + self.offset, self.lowest), self.highest)


def fit(
    genuine: NDArray[np.int64], impostor: NDArray[np.int64], persons_mated: int, person_pairs: int
) -> LikelihoodRatio:
    """Fits the ratio to counts (BINS,) of both kinds, neither of them empty."""
    mated_weight = genuine / genuine.sum() / 2
    other_weight = impostor / impostor.sum() / 2
    mated_target = (genuine.sum() + 1) / (genuine.sum() + 2)
    other_target = 1 / (impostor.sum() + 2)
    weight = mated_weight + other_weight
    target = mated_weight * mated_target + other_weight * other_target
    features = np.stack([centres(), np.ones_like(weight)], axis=1)
    slope, offset = _logistic(features, weight, target)
    return LikelihoodRatio(
        slope=slope,
        offset=offset,
        lowest=-float(np.log(persons_mated + 2)),
        highest=float(np.log(person_pairs + 2)),
    )


def cllr(genuine: NDArray[np.int64], impostor: NDArray[np.int64], log_ratios: Floats) -> float:
    """Returns Brümmer's cost of log ratios (BINS,), in bits: 0 is perfect, 1 is useless."""
    mated = (genuine * np.logaddexp(0.0, -log_ratios)).sum() / genuine.sum()
    other = (impostor * np.logaddexp(0.0, log_ratios)).sum() / impostor.sum()
    return float((mated + other) / 2 / np.log(2))


def least_cllr(genuine: NDArray[np.int64], impostor: NDArray[np.int64]) -> float:
    """Returns the cost of the best non-decreasing ratio for the same counts (PAV)."""
    mated, other = genuine / genuine.sum(), impostor / impostor.sum()
    used = np.flatnonzero(mated + other)
    shares = _pool_adjacent_violators(mated[used], other[used])
    with np.errstate(divide="ignore"):
        ratios = np.log(shares) - np.log1p(-shares)
    everywhere = np.zeros(len(genuine))
    everywhere[used] = np.clip(ratios, -700, 700)
    return cllr(genuine, impostor, everywhere)


def match_probabilities(log_ratios: Sequence[float], persons: int) -> list[float]:
    """Returns the probability of each candidate (best first) to be the person of the probe.

    By Bayes' rule: the probe is of a stranger (prior 1 - MATED_SHARE) or of one of the `persons`
    (MATED_SHARE / persons each). Persons not on the list count as likely as its last candidate, or
    as a stranger if that is less. The probabilities of a list add up to less than 1; with one
    person enrolled it is that of a 1:1 comparison.
    """
    if not log_ratios:
        return []
    ratios = np.exp(np.array(log_ratios, dtype=np.float64))
    enrolled = max(persons, len(ratios))
    each = MATED_SHARE / enrolled
    unseen = (enrolled - len(ratios)) * min(1.0, float(ratios.min()))
    evidence = (1.0 - MATED_SHARE) + each * (ratios.sum() + unseen)
    return [float(probability) for probability in each * ratios / evidence]


def _logistic(features: Floats, weight: Floats, target: Floats) -> tuple[float, float]:
    """Fits slope and offset of the logistic by Newton's method with halved steps."""
    point = np.zeros(2)
    cost = _cost(features, weight, target, point)
    for _ in range(_STEPS):
        share = 1 / (1 + np.exp(-features @ point))
        gradient = features.T @ (weight * share - target)
        curvature = (features * (weight * share * (1 - share))[:, None]).T @ features
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        while (better := _cost(features, weight, target, point - step)) > cost:
            step /= 2
            if np.abs(step).max() < _CLOSE_ENOUGH:
                return float(point[0]), float(point[1])
        point, cost = point - step, better
        if np.abs(step).max() < _CLOSE_ENOUGH:
            break
    return float(point[0]), float(point[1])


def _cost(features: Floats, weight: Floats, target: Floats, point: Floats) -> float:
    sums = features @ point
    return float((weight * np.logaddexp(0.0, sums) - target * sums).sum())


def _pool_adjacent_violators(mated: Floats, other: Floats) -> Floats:
    """Returns the non-decreasing shares of `mated` in both that fit best, for each index."""
    blocks: list[tuple[float, float, int]] = []  # mated, other, places
    for mates, others in zip(mated.tolist(), other.tolist(), strict=True):
        block = (mates, others, 1)
        while blocks and blocks[-1][0] * (block[0] + block[1]) >= block[0] * (
            blocks[-1][0] + blocks[-1][1]
        ):
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    return np.concatenate([np.full(n, mates / (mates + others)) for mates, others, n in blocks])
