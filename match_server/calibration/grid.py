"""The grid of similarities on which comparisons are counted, in constant memory."""

import numpy as np
from numpy.typing import NDArray

BINS = 800
STEP = 2.0 / BINS


def edges() -> NDArray[np.float64]:
    """Returns the thresholds (BINS + 1,) from -1 to 1; bin k begins at edges[k]."""
    return np.linspace(-1.0, 1.0, BINS + 1)


def centres() -> NDArray[np.float64]:
    """Returns the middle of each bin, (BINS,)."""
    return edges()[:-1] + STEP / 2


def bins_of(similarities: NDArray[np.floating]) -> NDArray[np.int64]:
    """Returns the bin of each similarity, in the same shape."""
    places = np.floor((similarities.astype(np.float64) + 1.0) / STEP).astype(np.int64)
    clipped: NDArray[np.int64] = np.clip(places, 0, BINS - 1)
    return clipped


def at_least(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Returns how many of counts (..., BINS) reach each threshold, (..., BINS + 1)."""
    reversed_sums = np.cumsum(counts[..., ::-1], axis=-1, dtype=np.float64)[..., ::-1]
    nothing = np.zeros((*counts.shape[:-1], 1))
    return np.concatenate([reversed_sums, nothing], axis=-1)
