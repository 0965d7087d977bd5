"""Makes a calibration file from comparisons."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from match_server.calibration.comparisons import Comparisons
from match_server.calibration.grid import BINS, bins_of, edges
from match_server.calibration.likelihood import cllr, fit, least_cllr
from match_server.calibration.tail import fit_tail
from match_server.evaluation.rates import Curve, Estimate, Rates, rates_of
from match_server.schemas.calibrations import (
    CalibrationCurves,
    CalibrationData,
    CalibrationFile,
    CalibrationLikelihood,
    CalibrationReference,
    CalibrationTail,
    EstimateView,
)
from match_server.schemas.collections import GateName
from shared.errors import Unusable

_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Measurement:
    """The rates of a model on a set of pictures, and its calibration."""

    rates: Rates
    file: CalibrationFile


def measure(
    compared: Comparisons,
    *,
    model_id: str,
    gate: GateName,
    refused: int,
    now: datetime,
    seed: int = 0,
) -> Measurement:
    """Returns rates and calibration. Raises Unusable when there are too few comparisons."""
    genuine, impostor = compared.genuine_moments, compared.impostor_moments
    if not genuine.count or not impostor.count:
        raise Unusable(
            "a calibration needs at least two persons with usable pictures, one of them with two",
            reasons=["too_few_pictures"],
            persons=compared.persons,
            persons_with_two_pictures=compared.persons_mated,
        )
    if genuine.mean <= impostor.mean:
        raise Unusable(
            "pictures of one person are no more alike than pictures of two: does each folder hold "
            "one person?",
            reasons=["not_separated"],
        )
    rates = rates_of(compared, seed=seed)
    tail = fit_tail(compared.impostor)
    file = CalibrationFile(
        format="muster-calibration",
        version=1,
        model_id=model_id,
        measured_at=now,
        gate=gate,
        data=CalibrationData(
            persons=compared.persons,
            persons_mated=compared.persons_mated,
            pictures=compared.pictures,
            refused=refused,
            genuine_pairs=genuine.count,
            impostor_pairs=impostor.count,
            person_pairs=compared.person_pairs,
            genuine_mean=_rounded(genuine.mean),
            genuine_sd=_rounded(genuine.sd),
            impostor_mean=_rounded(impostor.mean),
            impostor_sd=_rounded(impostor.sd),
        ),
        eer=_estimate(rates.eer),
        d_prime=_estimate(rates.d_prime),
        curves=_curves(compared, rates),
        tail=CalibrationTail(
            similarity=_rounded(tail.similarity), fmr=tail.fmr, scale=_rounded(tail.scale)
        ),
        likelihood=_likelihood(compared),
        sha256="0" * 64,
    )
    return Measurement(rates, file.model_copy(update={"sha256": file.digest()}))


def as_reference(
    file: CalibrationFile, pictures: str, missed: list[float] | None = None
) -> CalibrationFile:
    """Returns the calibration as a model pack's reference; `pictures` describes the pictures."""
    reference = CalibrationReference(pictures=pictures, missed=missed)
    marked = file.model_copy(update={"reference": reference})
    return marked.model_copy(update={"sha256": marked.digest()})


def _curves(compared: Comparisons, rates: Rates) -> CalibrationCurves:
    """Returns the curves over all thresholds with counts, and one more."""
    genuine = compared.genuine.sum(axis=0)
    impostor = compared.impostor.sum(axis=(0, 1))
    mated = compared.mated_best[~np.isnan(compared.mated_best)]
    mates = np.bincount(bins_of(mated), minlength=BINS)
    used = np.flatnonzero(genuine + impostor + mates)
    first, last = int(used[0]), min(int(used[-1]) + 1, BINS)

    def cut(values: NDArray[np.float64]) -> list[float]:
        return [_rounded(value) for value in values[first : last + 1].tolist()]

    def counted(values: NDArray[np.int64]) -> list[int]:
        padded = [int(value) for value in values.tolist()] + [0]
        return padded[first : last + 1]

    def both(curve: Curve) -> list[list[float]]:
        return [cut(curve.rate), cut(curve.low), cut(curve.high)]

    fmr, fmr_low, fmr_high = both(rates.fmr)
    fnmr, fnmr_low, fnmr_high = both(rates.fnmr)
    return CalibrationCurves(
        thresholds=cut(edges()),
        fmr=fmr,
        fmr_low=fmr_low,
        fmr_high=fmr_high,
        fnmr=fnmr,
        fnmr_low=fnmr_low,
        fnmr_high=fnmr_high,
        fpir=cut(rates.fpir.rate),
        fnir=cut(rates.fnir.rate),
        genuine=counted(genuine),
        impostor=counted(impostor),
        mates=counted(mates),
    )


def _likelihood(compared: Comparisons) -> CalibrationLikelihood:
    genuine = compared.genuine.sum(axis=0)
    impostor = compared.impostor.sum(axis=(0, 1))
    ratio = fit(genuine, impostor, compared.persons_mated, compared.person_pairs)
    middles = edges()[:-1] + np.diff(edges()) / 2
    ratios = np.clip(ratio.slope * middles + ratio.offset, ratio.lowest, ratio.highest)
    return CalibrationLikelihood(
        slope=_rounded(ratio.slope),
        offset=_rounded(ratio.offset),
        lowest=_rounded(ratio.lowest),
        highest=_rounded(ratio.highest),
        cllr=_rounded(cllr(genuine, impostor, ratios)),
        least_cllr=_rounded(least_cllr(genuine, impostor)),
    )


def _estimate(estimate: Estimate) -> EstimateView:
    return EstimateView(
        value=_rounded(estimate.value), low=_rounded(estimate.low), high=_rounded(estimate.high)
    )


def _rounded(value: float) -> float:
    """Rounds to six significant digits, which keeps the file small."""
    return float(f"{value:.{_DIGITS}g}")
