"""Extrapolation of the FMR beyond the measured range, by an exponential tail.

The excess of a similarity over a high level is taken to be exponential: peaks over threshold with
shape 0 (Coles, "An Introduction to Statistical Modeling of Extreme Values", 2001, chapter 4). The
similarities of strangers fall faster than that (about as a normal distribution does), so the FMR
is overestimated rather than underestimated; relatives and twins are in no model.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from match_server.calibration.grid import STEP, at_least, centres, edges

LEAST_COMPARISONS = 30
"""The "rule of 30": with 30 errors the rate is known to about 30 % (Doddington et al., 2000)."""

LEAST_PERSON_PAIRS = 10
"""... if they are of enough different persons."""

_SHAPED_BY = 1e-3  # share of all comparisons whose excess gives the scale, 30 at least


@dataclass(frozen=True, slots=True)
class Tail:
    """Above `similarity`, FMR(s) = fmr * exp(-(s - similarity) / scale)."""

    similarity: float
    fmr: float  # at `similarity`: the lowest measured rate
    scale: float  # cosine

    def threshold_for(self, fmr: float) -> float:
        """Returns the similarity with the rate `fmr`, which must be below `self.fmr`."""
        return self.similarity + self.scale * math.log(self.fmr / fmr)

    def fmr_at(self, similarity: float) -> float:
        return self.fmr * math.exp(-max(0.0, similarity - self.similarity) / self.scale)


def fit_tail(impostor: NDArray[np.int64]) -> Tail:
    """Fits the tail to counts (groups, groups, BINS), of which at least one is not 0."""
    counts = impostor.sum(axis=(0, 1))
    reached = at_least(counts)
    pairs = (np.cumsum(impostor[..., ::-1], axis=-1) > 0)[..., ::-1].sum(axis=(0, 1))
    total = int(reached[0])
    all_pairs = int(pairs[0])
    enough = (reached[:-1] >= min(LEAST_COMPARISONS, total)) & (
        pairs >= min(LEAST_PERSON_PAIRS, all_pairs)
    )
    join = int(np.flatnonzero(enough)[-1])
    shaped_by = max(float(reached[join]), _SHAPED_BY * total)
    level = int(np.flatnonzero(reached[:-1] >= shaped_by)[-1])
    excess = ((centres() - edges()[level]) * counts)[level:].sum() / reached[level]
    return Tail(
        similarity=float(edges()[join]),
        fmr=float(reached[join] / total),
        scale=max(float(excess), STEP),
    )
