"""The report of an evaluation: rates, thresholds, and pictures to check."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from match_server.calibration.calibration import Calibration, fmr_for_fpir, fpir_for_fmr, limits_of
from match_server.calibration.comparisons import Comparisons, Pair
from match_server.calibration.grid import STEP
from match_server.evaluation.folder import ReadFolder
from match_server.evaluation.measurement import Measurement
from match_server.evaluation.slices import FPIR, Slice, slices_of
from match_server.schemas.base import ApiModel
from match_server.schemas.calibrations import CalibrationData, EstimateView

FMRS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
GALLERIES = (100, 1_000, 10_000, 100_000)

_FPIRS = (0.1, 0.05, 0.02, 0.01)
_PAIRS = 10


@dataclass(frozen=True, slots=True)
class FalseAlarmTarget:
    """The operator's target: at most so many false alarms among so many strangers."""

    false_alarms_per_day: float
    traffic: float  # tracks of strangers in a day

    @property
    def fpir(self) -> float:
        return min(self.false_alarms_per_day / self.traffic, 1.0)


class VerificationPoint(ApiModel):
    """1:1: the threshold for a false match rate, and the false non-match rate there."""

    fmr: float
    threshold: float
    fnmr: float
    extrapolated: bool


class IdentificationPoint(ApiModel):
    """1:N: the threshold for the target in a gallery of so many templates."""

    templates: int
    fpir: float
    fmr: float
    threshold: float
    fnir: float  # rank 1
    extrapolated: bool
    decades: float  # of FMR between the lowest measured and the needed
    reachable: bool


class OpenSetPoint(ApiModel):
    """1:N as measured, leaving out one picture (mated) or person (non-mated) at a time."""

    templates: int  # in the gallery of a non-mated search, on average
    threshold: float
    fpir: float
    fpir_low: float
    fpir_high: float
    fpir_foretold: float  # 1 - (1 - FMR)^templates
    fnir: float
    fnir_low: float
    fnir_high: float


class PairView(ApiModel):
    first: str
    second: str
    similarity: float


class RefusalView(ApiModel):
    file: str
    reasons: list[str]
    message: str


class Report(ApiModel):
    """All results of an evaluation. It holds file names, so it is not part of the calibration."""

    model_id: str
    gate: str
    data: CalibrationData
    eer: EstimateView
    d_prime: EstimateView
    cllr: float
    least_cllr: float
    measured_fmr: float  # the lowest that rests on 30 comparisons of 10 pairs of persons
    false_alarms_per_day: float
    traffic: float
    verification: list[VerificationPoint]
    identification: list[IdentificationPoint]
    open_set: list[OpenSetPoint]
    slices_threshold: float  # with an FPIR of 1 % in a gallery of all pictures
    slices: list[Slice]
    limits: list[str]
    refused: list[RefusalView]
    lookalikes: list[PairView]
    unlike: list[PairView]


def report_of(
    read: ReadFolder,
    compared: Comparisons,
    measured: Measurement,
    target: FalseAlarmTarget,
    enrolled: int,
    groups: Mapping[str, str],
) -> Report:
    """Returns the report; `enrolled` is the number of templates in the collection.

    `groups` are the operator's own groups, by the name of a person's folder.
    """
    file = measured.file
    calibration = Calibration(file)
    threshold = calibration.threshold_for(fmr_for_fpir(FPIR, compared.pictures)).similarity
    sizes = sorted({*GALLERIES, *([enrolled] if enrolled else [])})
    return Report(
        model_id=file.model_id,
        gate=file.gate,
        data=file.data,
        eer=file.eer,
        d_prime=file.d_prime,
        cllr=file.likelihood.cllr,
        least_cllr=file.likelihood.least_cllr,
        measured_fmr=file.tail.fmr,
        false_alarms_per_day=target.false_alarms_per_day,
        traffic=target.traffic,
        verification=[_verification(calibration, fmr) for fmr in FMRS],
        identification=[_identification(calibration, target, size) for size in sizes],
        open_set=[_open_set(measured, compared, calibration, place) for place in _places(measured)],
        slices_threshold=round(threshold, 4),
        slices=slices_of(read, compared, threshold, groups),
        limits=limits_of(file),
        refused=[
            RefusalView(file=refusal.file, reasons=list(refusal.reasons), message=refusal.message)
            for refusal in read.refused
        ],
        lookalikes=_pairs(compared.lookalikes, read.files),
        unlike=_pairs(compared.unlike, read.files),
    )


def _verification(calibration: Calibration, fmr: float) -> VerificationPoint:
    derived = calibration.threshold_for(fmr)
    return VerificationPoint(
        fmr=fmr,
        threshold=round(derived.similarity, 4),
        fnmr=calibration.fnmr_at(derived.similarity),
        extrapolated=derived.extrapolated,
    )


def _identification(
    calibration: Calibration, target: FalseAlarmTarget, templates: int
) -> IdentificationPoint:
    fmr = fmr_for_fpir(target.fpir, templates) if target.fpir < 1 else 1.0
    derived = calibration.threshold_for(fmr)
    return IdentificationPoint(
        templates=templates,
        fpir=target.fpir,
        fmr=fmr,
        threshold=round(derived.similarity, 4),
        fnir=calibration.fnir_at(derived.similarity, templates),
        extrapolated=derived.extrapolated,
        decades=round(max(0.0, math.log10(calibration.tail.fmr / fmr)), 2),
        reachable=derived.reachable,
    )


def _places(measured: Measurement) -> list[int]:
    """Returns the lowest thresholds of the grid with a measured FPIR of at most each of _FPIRS."""
    rate = measured.rates.fpir.rate
    return sorted({int((rate <= fpir).argmax()) for fpir in _FPIRS})


def _open_set(
    measured: Measurement, compared: Comparisons, calibration: Calibration, place: int
) -> OpenSetPoint:
    rates = measured.rates
    threshold = place * STEP - 1.0
    templates = round(2 * compared.impostor_moments.count / compared.pictures)
    return OpenSetPoint(
        templates=templates,
        threshold=round(threshold, 4),
        fpir=float(rates.fpir.rate[place]),
        fpir_low=float(rates.fpir.low[place]),
        fpir_high=float(rates.fpir.high[place]),
        fpir_foretold=fpir_for_fmr(calibration.fmr_at(threshold), templates),
        fnir=float(rates.fnir.rate[place]),
        fnir_low=float(rates.fnir.low[place]),
        fnir_high=float(rates.fnir.high[place]),
    )


def _pairs(pairs: Sequence[Pair], files: Sequence[str]) -> list[PairView]:
    return [
        PairView(
            first=files[pair.first],
            second=files[pair.second],
            similarity=round(pair.similarity, 4),
        )
        for pair in pairs[:_PAIRS]
    ]
