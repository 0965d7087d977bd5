"""A calibration in use: from rates to thresholds, from similarities to likelihood ratios."""

import bisect
import math
from dataclasses import dataclass

import numpy as np

from match_server.calibration.grid import STEP
from match_server.calibration.likelihood import LikelihoodRatio
from match_server.calibration.tail import Tail
from match_server.schemas.calibrations import CalibrationFile


@dataclass(frozen=True, slots=True)
class Derived:
    """The threshold for a required FMR."""

    similarity: float  # -1..1
    extrapolated: bool  # the rate is below the lowest measured
    reachable: bool  # False: even a similarity of 1 has a higher FMR


class Calibration:
    """A calibration file, prepared for many lookups. Immutable."""

    def __init__(self, file: CalibrationFile) -> None:
        self.file = file
        self.model_id = file.model_id
        tail, ratio = file.tail, file.likelihood
        self.tail = Tail(tail.similarity, tail.fmr, tail.scale)
        self.likelihood = LikelihoodRatio(ratio.slope, ratio.offset, ratio.lowest, ratio.highest)
        self._thresholds = file.curves.thresholds
        self._fmr = file.curves.fmr
        self._falling = [-rate for rate in self._fmr]  # ascending, to be searched
        self._fmr_high = file.curves.fmr_high

    def threshold_for(self, fmr: float) -> Derived:
        """Returns the lowest threshold with at most this FMR.

        The measured curve and the tail must both allow it, so a lower rate never gives a lower
        threshold.
        """
        if not fmr > 0:
            return Derived(1.0, extrapolated=True, reachable=False)
        similarity = self._measured_threshold(fmr)
        extrapolated = fmr < self.tail.fmr
        if extrapolated:
            similarity = max(similarity, self.tail.threshold_for(fmr))
        return Derived(min(similarity, 1.0), extrapolated, similarity <= 1.0)

    def fmr_at(self, similarity: float) -> float:
        """Returns the FMR at a threshold, extrapolated beyond the measured range."""
        measured = float(np.interp(similarity, self._thresholds, self._fmr))
        if similarity <= self.tail.similarity:
            return measured
        return max(measured, self.tail.fmr_at(similarity))

    def fmr_bound(self, similarity: float) -> float:
        """Returns the measured upper end of the 95 % interval of the FMR at a threshold."""
        below = bisect.bisect_right(self._thresholds, similarity) - 1
        return self._fmr_high[below] if below >= 0 else 1.0

    def fnmr_at(self, similarity: float) -> float:
        """Returns the share of genuine comparisons below a threshold."""
        curves = self.file.curves
        return float(np.interp(similarity, self._thresholds, curves.fnmr, left=0.0, right=1.0))

    def threshold_of_fnmr(self, fnmr: float) -> float:
        """Returns the highest measured threshold with at most this FNMR."""
        last = bisect.bisect_right(self.file.curves.fnmr, fnmr) - 1
        return self._thresholds[max(last, 0)]

    def fnir_at(self, similarity: float, comparisons: float) -> float:
        """Returns FNIR at rank 1: the mate is below the threshold, or behind another person.

        The similarity of the mate is distributed as that of the best of a person's other pictures
        in the measurement.
        """
        counts = np.array(self.file.curves.mates, dtype=np.float64)
        if not counts.any():
            return 1.0
        middles = np.array(self._thresholds) + STEP / 2
        first = np.array(
            [1.0 - fpir_for_fmr(self.fmr_at(middle), comparisons) for middle in middles]
        )
        reaches = np.clip((middles + STEP / 2 - similarity) / STEP, 0.0, 1.0)  # share of the bin
        return float(1.0 - (counts * reaches * first).sum() / counts.sum())

    def _measured_threshold(self, fmr: float) -> float:
        """Interpolates between the last threshold with a higher rate and the next."""
        first = bisect.bisect_left(self._falling, -fmr)
        if first == 0:
            return self._thresholds[0]
        low, high = self._thresholds[first - 1], self._thresholds[first]
        rate_low, rate_high = self._fmr[first - 1], self._fmr[first]
        if rate_high <= 0:
            return high
        share = math.log(rate_low / fmr) / math.log(rate_low / rate_high)
        return low + share * (high - low)


def limits_of(file: CalibrationFile) -> list[str]:
    """Returns the limits of a calibration, as sentences."""
    data, sentences = file.data, []
    sentences.append(
        f"{data.genuine_pairs:,} genuine and {data.impostor_pairs:,} impostor comparisons of "
        f"{data.pictures:,} pictures of {data.persons:,} persons: an FMR below "
        f"one in {data.impostor_pairs:,} cannot be measured with them."
    )
    sentences.append(
        f"An FMR below one in {1 / file.tail.fmr:,.0f} rests on fewer than 30 comparisons or on "
        "too few persons: there a threshold is extrapolated by an exponential tail, to be trusted "
        "less the further it goes."
    )
    bound = file.curves.fmr_high[-1]
    sentences.append(
        f"However high the threshold, with {data.person_pairs:,} pairs of persons it is 95 % sure "
        f"only that the FMR is below one in {1 / bound:,.0f}."
    )
    sentences.append(
        "It holds for pictures like those it was measured with: other cameras, light, ages, "
        "relatives and twins change it."
    )
    if file.reference is not None:
        sentences.append(f"Measured on {file.reference.pictures}. {file.reference.note}")
    return sentences


def fmr_for_fpir(fpir: float, comparisons: float) -> float:
    """Returns the FMR with 1 - (1 - FMR)^comparisons = `fpir`, for independent comparisons."""
    return -math.expm1(math.log1p(-fpir) / max(comparisons, 1.0))


def fpir_for_fmr(fmr: float, comparisons: float) -> float:
    """Returns FPIR = 1 - (1 - FMR)^comparisons (ISO/IEC 19795-1; Daugman, 2000)."""
    if fmr >= 1.0:
        return 1.0
    return -math.expm1(math.log1p(-fmr) * max(comparisons, 1.0))
