"""Error rates of comparisons and of identifications, with intervals over persons.

Comparisons that share a person are not independent, so intervals come from a bootstrap over
persons, not over comparisons (ISO/IEC 19795-1, annex on uncertainty; Bolle, Ratha and Pankanti,
"Error analysis of pattern recognition systems: the subsets bootstrap", 2004). Without any error a
bootstrap has nothing to draw: then the "rule of three" gives the upper end (Hanley and
Lippman-Hand, 1983), with pairs of persons as the independent units.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from match_server.calibration.comparisons import Comparisons, d_prime
from match_server.calibration.grid import BINS, at_least, bins_of, centres, edges

REPLICATES = 1000
_CONFIDENCE = 0.95
_CHUNK = 200  # replicates at a time

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A rate at each threshold of the grid, with its 95 % interval; arrays of (BINS + 1,)."""

    rate: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """All error rates; those of searches leave out one picture, or person, at a time."""

    fmr: Curve
    fnmr: Curve
    fpir: Curve  # a search of a stranger has a candidate at or above the threshold
    fnir: Curve  # an enrolled person is not the first candidate, or below the threshold
    eer: Estimate
    d_prime: Estimate


def rates_of(compared: Comparisons, *, seed: int = 0) -> Rates:
    """Returns all rates of these comparisons, of which at least one of each kind is needed."""
    weights = _weights(len(compared.genuine), seed)
    impostor = _resampled_pairs(compared.impostor, weights)
    genuine = _resampled(compared.genuine, weights)
    usable = (impostor.sum(axis=1) > 0) & (genuine.sum(axis=1) > 0)
    impostor, genuine = impostor[usable], genuine[usable]
    fmr = _curve(
        _share_at_least(compared.impostor.sum(axis=(0, 1))),
        _share_at_least(impostor),
        compared.person_pairs,
    )
    fnmr = _curve(
        _share_below(compared.genuine.sum(axis=0)), _share_below(genuine), compared.persons_mated
    )
    fpir, fnir = _open_set(compared, weights)
    return Rates(
        fmr=fmr,
        fnmr=fnmr,
        fpir=fpir,
        fnir=fnir,
        eer=_eer(fmr, fnmr, _share_at_least(impostor), _share_below(genuine)),
        d_prime=_d_prime(compared, genuine, impostor),
    )


def zero_errors_bound(units: int) -> float:
    """Returns the rate that is not exceeded with 95 % confidence if none of `units` is an error.

    About 3 / units: the "rule of three".
    """
    return float(1.0 - (1.0 - _CONFIDENCE) ** (1.0 / units)) if units else 1.0


def share_interval(
    hits: NDArray[np.bool_] | Floats, persons: NDArray[np.int64]
) -> tuple[float, float]:
    """Returns the 95 % interval of a share of searches (n,), by a bootstrap over persons (n,)."""
    _, numbers = np.unique(persons, return_inverse=True)
    sums, counts = np.bincount(numbers, weights=hits), np.bincount(numbers)
    if not counts.size:
        return 0.0, 1.0
    drawn = _weights(len(counts), 0)
    low, high = np.percentile((drawn @ sums) / (drawn @ counts), [2.5, 97.5]).tolist()
    bound = zero_errors_bound(len(counts))
    if sums.sum() == counts.sum():
        low = min(low, 1.0 - bound)
    return float(low), max(float(high), bound if sums.sum() == 0 else 0.0)


def equal_error(fmr: Floats, fnmr: Floats) -> float:
    """Returns the rate where both curves (BINS + 1,) meet, interpolated between thresholds."""
    above = int(np.argmax(fnmr >= fmr))  # FMR falls to 0 and FNMR rises to 1, so there is one
    if above == 0:
        return float((fmr[0] + fnmr[0]) / 2)
    gap_before, gap = fmr[above - 1] - fnmr[above - 1], fmr[above] - fnmr[above]
    share = gap_before / (gap_before - gap)
    return float(fmr[above - 1] + share * (fmr[above] - fmr[above - 1]))


def _weights(groups: int, seed: int) -> Floats:
    """Returns how often each replicate draws each group, (REPLICATES, groups)."""
    random = np.random.default_rng(seed)
    drawn = random.multinomial(groups, np.full(groups, 1.0 / groups), size=REPLICATES)
    return drawn.astype(np.float64)


def _resampled(counts: NDArray[np.int64], weights: Floats) -> Floats:
    """Returns the counts (groups, BINS) of each replicate."""
    drawn: Floats = weights @ counts.astype(np.float64)
    return drawn


def _resampled_pairs(counts: NDArray[np.int64], weights: Floats) -> Floats:
    """Returns the counts (groups, groups, BINS) of each replicate.

    A pair of groups counts as often as both are drawn together, pairs within a group as often as
    the group is drawn. Two copies of one person are not compared, since they are no impostors.
    """
    groups = len(counts)
    flat = counts.reshape(groups * groups, BINS)
    used = np.flatnonzero(flat.any(axis=1))
    flat = flat[used].astype(np.float64)
    first, second = np.divmod(used, groups)
    drawn = np.empty((len(weights), BINS))
    for start in range(0, len(weights), _CHUNK):
        some = weights[start : start + _CHUNK]
        together = some[:, first] * np.where(first == second, 1.0, some[:, second])
        drawn[start : start + _CHUNK] = together @ flat
    return drawn


def _share_at_least(counts: NDArray[np.number]) -> Floats:
    reached = at_least(counts)
    shares: Floats = reached / np.maximum(reached[..., :1], 1.0)
    return shares


def _share_below(counts: NDArray[np.number]) -> Floats:
    return 1.0 - _share_at_least(counts)


def _curve(rate: Floats, replicates: Floats, units: int) -> Curve:
    if not len(replicates):
        return Curve(rate, np.zeros_like(rate), np.ones_like(rate))
    outside = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.percentile(replicates, [outside, 100 - outside], axis=0)
    bound = zero_errors_bound(units)
    return Curve(rate, np.minimum(low, rate), np.maximum(high, np.maximum(rate, bound)))


def _open_set(compared: Comparisons, weights: Floats) -> tuple[Curve, Curve]:
    """Returns FPIR and FNIR of searches among all other pictures.

    Each picture is searched once without its person (non-mated) and, if that person has another
    picture, once without itself (mated).
    """
    groups, count = compared.groups, len(compared.genuine)
    others = ~np.isnan(compared.impostor_best)
    false_positive = _by_group(compared.impostor_best[others], groups[others], count)
    mated = ~np.isnan(compared.mated_best)
    # A mate behind another person is missed at any threshold, as with the lowest similarity.
    first = compared.mated_best >= np.where(others, compared.impostor_best, -np.inf)
    similarity = np.where(first, compared.mated_best, -1.0)
    missed = _by_group(similarity[mated], groups[mated], count)
    beaten = float((~first[mated]).mean()) if mated.any() else 0.0
    fnir = _share_below(missed.sum(axis=0))
    fnir_replicates = _share_below(_resampled(missed, weights))
    fnir[0], fnir_replicates[:, 0] = beaten, beaten
    return (
        _curve(
            _share_at_least(false_positive.sum(axis=0)),
            _share_at_least(_resampled(false_positive, weights)),
            compared.persons,
        ),
        _curve(fnir, fnir_replicates, compared.persons_mated),
    )


def _by_group(
    values: NDArray[np.floating], groups: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    counts = np.bincount(groups * BINS + bins_of(values), minlength=count * BINS)
    return counts.reshape(count, BINS)


def _eer(fmr: Curve, fnmr: Curve, fmrs: Floats, fnmrs: Floats) -> Estimate:
    """Returns where both curves meet; the interval ends where their upper ends meet."""
    value = equal_error(fmr.rate, fnmr.rate)
    drawn = [equal_error(*rates) for rates in zip(fmrs, fnmrs, strict=True)]
    estimate = _estimate(value, drawn)
    return replace(estimate, high=max(estimate.high, equal_error(fmr.high, fnmr.high)))


def _d_prime(compared: Comparisons, genuine: Floats, impostor: Floats) -> Estimate:
    mated, other = compared.genuine_moments, compared.impostor_moments
    value = d_prime(mated.mean, mated.sd, other.mean, other.sd)
    drawn = [
        d_prime(*_binned_moments(mated_counts), *_binned_moments(other_counts))
        for mated_counts, other_counts in zip(genuine, impostor, strict=True)
    ]
    return _estimate(value, drawn)


def _binned_moments(counts: Floats) -> tuple[float, float]:
    middles, total = centres(), counts.sum()
    mean = float((counts * middles).sum() / total)
    return mean, float(np.sqrt((counts * (middles - mean) ** 2).sum() / total))


def _estimate(value: float, drawn: list[float]) -> Estimate:
    if not drawn:
        return Estimate(value, value, value)
    outside = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.percentile(drawn, [outside, 100 - outside]).tolist()
    return Estimate(value, min(low, value), max(high, value))


def thresholds() -> Floats:
    """Returns the thresholds of the curves, (BINS + 1,)."""
    return edges()
