"""Calibrations: the measured error rates of a model, as a file and in responses."""

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from match_server.schemas.base import ApiModel, ModelId, Moment, Written
from match_server.schemas.collections import CalibrationFrom, GateName, OperatingPointView

_MAX_POINTS = 1001

REFERENCE_NOTE = (
    "A reference, not a measurement of this operator's cameras: other light, ages, distances and "
    "relatives change the rates."
)

Rate = Annotated[float, Field(ge=0, le=1)]
Similarity = Annotated[float, Field(ge=-1, le=1)]
RateList = Annotated[list[Rate], Field(min_length=2, max_length=_MAX_POINTS)]
Count = Annotated[int, Field(ge=0, le=10**15)]


class EstimateView(ApiModel):
    """A figure with its 95 % interval, by a bootstrap over persons."""

    value: float
    low: float
    high: float


class CalibrationData(ApiModel):
    """The data of the measurement. It holds no names, pictures or templates."""

    persons: Count
    persons_mated: Count = Field(description="Persons with two usable pictures or more.")
    pictures: Count = Field(description="Usable pictures.")
    refused: Count = Field(description="Pictures without a face, of bad quality, and so on.")
    genuine_pairs: Annotated[int, Field(ge=1, le=10**15)]
    impostor_pairs: Annotated[int, Field(ge=1, le=10**15)]
    person_pairs: Annotated[int, Field(ge=1, le=10**15)]
    genuine_mean: Similarity
    genuine_sd: Annotated[float, Field(ge=0, le=2)]
    impostor_mean: Similarity
    impostor_sd: Annotated[float, Field(ge=0, le=2)]


class CalibrationCurves(ApiModel):
    """Rates at each threshold, each list as long as `thresholds`."""

    thresholds: Annotated[list[Similarity], Field(min_length=2, max_length=_MAX_POINTS)]
    fmr: RateList
    fmr_low: RateList
    fmr_high: RateList
    fnmr: RateList
    fnmr_low: RateList
    fnmr_high: RateList
    fpir: RateList = Field(description="Of a person not enrolled, among all other pictures.")
    fnir: RateList = Field(description="Rank 1, among all other pictures.")
    genuine: Annotated[list[Count], Field(max_length=_MAX_POINTS)] = Field(
        description="Genuine comparisons from each threshold to the next."
    )
    impostor: Annotated[list[Count], Field(max_length=_MAX_POINTS)]
    mates: Annotated[list[Count], Field(max_length=_MAX_POINTS)] = Field(
        description="Pictures, by their similarity to the most similar one of the same person."
    )

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        length = len(self.thresholds)
        rates = (self.fmr, self.fmr_low, self.fmr_high, self.fnmr, self.fnmr_low, self.fnmr_high)
        for curve in (*rates, self.fpir, self.fnir, self.genuine, self.impostor, self.mates):
            if len(curve) != length:
                raise ValueError("the curves are not all of one length")
        if any(after <= before for before, after in pairwise(self.thresholds)):
            raise ValueError("`thresholds` does not rise")
        if _rises(self.fmr) or _rises(self.fmr_high) or _rises(list(reversed(self.fnmr))):
            raise ValueError("with the threshold, FMR may not rise and FNMR may not fall")
        if self.fmr[0] <= 0 or self.fmr[-1] > 0:
            raise ValueError("`fmr` must reach from the first impostor to beyond the last")
        return self


class CalibrationTail(ApiModel):
    """Beyond `similarity`, FMR(s) = fmr * exp(-(s - similarity) / scale)."""

    similarity: Similarity
    fmr: Annotated[float, Field(gt=0, le=1)] = Field(
        description="The lowest FMR that was measured (from 30 comparisons); below it is "
        "extrapolation."
    )
    scale: Annotated[float, Field(gt=0, le=1)]


class CalibrationLikelihood(ApiModel):
    """log LR(s) = slope * s + offset, within `lowest` and `highest`."""

    slope: Annotated[float, Field(gt=0, le=10_000)]
    offset: Annotated[float, Field(ge=-10_000, le=10_000)]
    lowest: Annotated[float, Field(ge=-50, le=0)]
    highest: Annotated[float, Field(ge=0, le=50)] = Field(
        description="The largest ratio that so many persons allow to claim."
    )
    cllr: Annotated[float, Field(ge=0, le=1000)] = Field(
        description="Cost in bits: 0 perfect, 1 useless."
    )
    least_cllr: Annotated[float, Field(ge=0, le=1000)] = Field(
        description="Cost of the best monotone ratio; the rest of `cllr` is bad calibration."
    )


class CalibrationReference(ApiModel):
    """Marks a calibration that a model pack brings: measured on other pictures than yours."""

    pictures: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="Which kind of pictures it was measured on."
    )
    note: Annotated[str, Field(max_length=500)] = REFERENCE_NOTE
    missed: Annotated[list[Rate], Field(min_length=3, max_length=3)] | None = Field(
        default=None,
        description="FNIR (rank 1) at an FPIR of 1 % with one, two and three pictures enrolled of "
        "each person; null where too few persons had so many.",
    )


class CalibrationFile(ApiModel):
    """The file that `match-server evaluate` writes and a collection can adopt."""

    format: Literal["muster-calibration"]
    version: Literal[1]
    model_id: ModelId
    measured_at: Moment
    gate: GateName = Field(description="Quality gate that the pictures had to pass.")
    data: CalibrationData
    eer: EstimateView
    d_prime: EstimateView
    curves: CalibrationCurves
    tail: CalibrationTail
    likelihood: CalibrationLikelihood
    reference: CalibrationReference | None = Field(
        default=None, description="Only in the reference calibration of a model pack."
    )
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = Field(
        description="Of the rest as JSON with sorted keys and no spaces, without what is null."
    )

    def digest(self) -> str:
        """The correct value of `sha256`."""
        content = self.model_dump(mode="json", exclude={"sha256"}, exclude_none=True)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


class CalibrationView(ApiModel):
    """The calibration that a collection decides by."""

    calibration_from: CalibrationFrom = Field(
        description="`own`: adopted by the collection; `reference`: brought by the model pack."
    )
    adopted_at: Moment | None = Field(description="null: it is the model pack's reference.")
    retired_at: Moment | None = Field(
        description="When another calibration replaced it, or it was removed."
    )
    limits: list[str] = Field(description="The limits of the measurement, in words.")
    calibration: CalibrationFile


class CalibrationAdopted(CalibrationView, Written):
    """The calibration, and the operating point that is derived from it."""

    operating_point: OperatingPointView


class CalibrationRemoved(Written):
    """The calibration is not used any more; it stays in the history."""

    collection: str


class CalibrationLine(ApiModel):
    """A calibration in the history."""

    sha256: str
    measured_at: Moment
    adopted_at: Moment
    retired_at: Moment | None
    persons: int
    pictures: int
    eer: EstimateView


def _rises(values: Sequence[float]) -> bool:
    return any(after > before for before, after in pairwise(values))
