"""An operating point as clients see it, with sentences that explain it."""

from fractions import Fraction

from match_server.calibration.calibration import Calibration, fpir_for_fmr
from match_server.schemas.collections import DEFAULT_FPIR, OperatingPointView, Policy
from match_server.services.policy.operating_point import OperatingPoint, set_by

TOLERATED_FPIR = 0.02
"""The FPIR from which a fixed threshold causes a warning."""


def view_of(point: OperatingPoint) -> OperatingPointView:
    """Returns the point with its expected rates and false alarms, and an explanation."""
    calibration, traffic = point.calibration, point.traffic
    fmr = bound = fpir = alarms = extrapolated = None
    if calibration is not None:
        fmr = calibration.fmr_at(point.threshold)
        bound = calibration.fmr_bound(point.threshold)
        extrapolated = fmr < calibration.tail.fmr
        fpir = fpir_for_fmr(fmr, point.comparisons)
        if traffic.tracks_per_day is not None:
            alarms = fpir * traffic.tracks_per_day
    view = OperatingPointView(
        threshold=point.threshold,
        set_by=set_by(point.policy),
        templates=point.templates,
        persons=point.persons,
        probes_per_track=round(traffic.probes_per_track, 2),
        fmr=_short(fmr),
        fmr_upper_bound=_short(bound),
        fpir=_short(fpir),
        traffic=_short(traffic.tracks_per_day),
        traffic_from=traffic.source,
        false_alarms_per_day=_short(alarms),
        extrapolated=extrapolated,
        reachable=point.reachable,
        calibration_from=point.calibration_from,
        explanation="",
        warning=None,
    )
    explanation = _explained(view, point.policy, calibration)
    return view.model_copy(update={"explanation": explanation, "warning": _warning(view)})


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _explained(view: OperatingPointView, policy: Policy, calibration: Calibration | None) -> str:
    """The derivation of the threshold in a few sentences."""
    if calibration is None:
        if view.set_by == "threshold":
            return (
                "The threshold is the policy's own. Without a calibration of the model nobody "
                "knows how many strangers reach it."
            )
        return (
            f"The policy's `{view.set_by}` needs a calibration of the collection's model, and "
            "none is adopted: nobody is named until one is."
        )
    size = f"{view.templates:,} templates" + (
        f" and {view.probes_per_track:g} searches a track" if view.probes_per_track > 1 else ""
    )
    sentences = [_policy_sentence(view, policy)]
    if not view.reachable:
        sentences.append(f"With {size} no threshold keeps that: only exact copies are named.")
    else:
        sentences.append(
            f"With {size}, a similarity of {view.threshold:.3f} means that one comparison of "
            f"strangers in {_inverse(view.fmr)} is a false match, and {view.fpir:.2%} of the "
            f"strangers' tracks are given a name ({strangers_named(view.fpir or 0.0)})."
        )
    if calibration.file.reference is not None:
        sentences.append(
            f"By the model pack's reference, measured on {calibration.file.reference.pictures}, "
            "not on your cameras: `match-server evaluate FOLDER --adopt` measures your own."
        )
    if view.extrapolated:
        sentences.append(
            f"That rate is extrapolated: the calibration measured down to one in "
            f"{_inverse(calibration.tail.fmr)}. By its data alone it is only sure that the rate is "
            f"below one in {_inverse(view.fmr_upper_bound)}."
        )
    return " ".join(sentences)


def _policy_sentence(view: OperatingPointView, policy: Policy) -> str:
    if policy.target_fpir is not None:
        return f"Wanted: at most {policy.target_fpir:.2%} of strangers are given a name."
    if policy.false_alarms_per_day is not None:
        known = "no traffic is known" if view.traffic is None else f"{view.traffic:,.4g} strangers"
        alarms = f"{policy.false_alarms_per_day:g}"
        return f"Wanted: no more false alarms a day than {alarms} among {known} a day."
    return "The threshold is the policy's own."


def _warning(view: OperatingPointView) -> str | None:
    """What is wrong with the point and what to do; None when nothing is wrong."""
    if view.calibration_from is None:
        if view.set_by != "threshold":
            return None  # nobody is named: the explanation says so
        return (
            f"{view.threshold:.3g} is no measured threshold: neither the collection nor the model "
            "pack has a calibration. Measure one: match-server evaluate FOLDER --adopt"
        )
    if view.set_by != "threshold" or view.fpir is None or view.fpir <= TOLERATED_FPIR:
        return None
    return (
        f"{view.threshold:.3g} with {view.persons:,} people: {strangers_named(view.fpir)} are "
        f'given a name. Set the policy to {{"target_fpir": {DEFAULT_FPIR}}}, and the threshold '
        "follows the gallery's size"
    )


def strangers_named(fpir: float) -> str:
    """A rate in words: "2 strangers of 3"."""
    if fpir >= 0.995:
        return "all strangers"
    if fpir <= 0.0:
        return "no stranger"
    if fpir < 0.125:
        return f"1 stranger of {1 / fpir:,.0f}"
    share = Fraction(fpir).limit_denominator(10)
    count = "1 stranger" if share.numerator == 1 else f"{share.numerator} strangers"
    return f"{count} of {share.denominator}"


def _inverse(rate: float | None) -> str:
    return "—" if not rate else f"{1 / rate:,.0f}" if rate > 1e-12 else "a million millions"
