"""The operating point of a verification (1:1), which does not depend on a gallery's size."""

from dataclasses import dataclass

from match_server.calibration.calibration import Calibration, fmr_for_fpir
from match_server.calibration.likelihood import match_probabilities
from match_server.services.policy.operating_point import shown_threshold

VERIFICATION_FMR = 1e-4
"""Of all comparisons of one verification together. See decision 38."""


@dataclass(frozen=True, slots=True)
class VerificationPoint:
    """The threshold of a verification, and where it comes from."""

    fixed: float | None  # the threshold of a policy, cosine
    calibration: Calibration | None
    uncalibrated: float  # the threshold without either

    def threshold(self, comparisons: int) -> float:
        """The similarity from which the best of this many comparisons is a match."""
        if self.fixed is not None:
            return self.fixed
        if self.calibration is None:
            return self.uncalibrated
        fmr = fmr_for_fpir(VERIFICATION_FMR, comparisons)
        return shown_threshold(self.calibration.threshold_for(fmr).similarity)

    def same_person(self, similarity: float) -> float | None:
        """The probability that both are the same person; None without a calibration."""
        if self.calibration is None:
            return None
        return match_probabilities([self.calibration.likelihood.log_ratio(similarity)], 1)[0]
