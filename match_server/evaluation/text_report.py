"""A report as text, for a terminal."""

from collections.abc import Iterator

from match_server.evaluation.report import Report
from match_server.schemas.calibrations import EstimateView


def text_report(report: Report) -> str:
    """Returns the report, to be printed."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    data = report.data
    yield f"Model {report.model_id}, pictures held to the gate {report.gate!r}"
    yield (
        f"  {data.pictures:,} pictures of {data.persons:,} persons; {len(report.refused)} refused; "
        f"{data.genuine_pairs:,} genuine and {data.impostor_pairs:,} impostor comparisons "
        f"({data.person_pairs:,} pairs of persons)"
    )
    yield f"  d' {_estimate(report.d_prime, 2)}"
    yield f"  EER {_estimate(report.eer, 4)}"
    yield (
        f"  likelihood ratio: Cllr {report.cllr:.4f} bit, of which {report.least_cllr:.4f} is "
        "discrimination"
    )
    yield ""
    yield "1:1, thresholds for a false match rate"
    yield "       FMR  threshold    FNMR"
    for at in report.verification:
        yield f"  {at.fmr:8.0e}  {at.threshold:9.4f}  {at.fnmr:6.2%}  {_basis(at.extrapolated)}"
    yield ""
    yield (
        f"1:N, rank 1, {report.false_alarms_per_day:g} false alarms a day among "
        f"{report.traffic:,.6g} tracks of strangers"
    )
    yield "  templates     FPIR  FMR needed  threshold    FNIR"
    for size in report.identification:
        basis = _basis(size.extrapolated)
        if size.extrapolated:
            basis += f" over {size.decades:.1f} decades of FMR"
        if not size.reachable:
            basis = "not reachable at any threshold"
        yield (
            f"  {size.templates:9,}  {size.fpir:7.3%}  {size.fmr:10.1e}  {size.threshold:9.4f}  "
            f"{size.fnir:6.2%}  {basis}"
        )
    yield ""
    measured = report.open_set[0]
    yield (
        f"1:N, rank 1, measured among {measured.templates:,} templates (leave one out), with 95 % "
        "intervals over persons"
    )
    yield "  threshold    FPIR                     foretold    FNIR"
    for point in report.open_set:
        yield (
            f"  {point.threshold:9.4f}  {point.fpir:6.2%} ({point.fpir_low:.2%} to "
            f"{point.fpir_high:.2%})  {point.fpir_foretold:8.2%}  {point.fnir:6.2%} "
            f"({point.fnir_low:.2%} to {point.fnir_high:.2%})"
        )
    yield ""
    yield (
        f"Where the errors are, at the threshold {report.slices_threshold:.4f} "
        "(1 % of all strangers)"
    )
    yield "                                            pictures  strangers named    enrolled missed"
    for part in report.slices:
        yield (
            f"  {part.by:17}  {part.value:30}  {part.pictures:6,}  "
            f"{_share(part.fpir, part.fpir_low, part.fpir_high)}  "
            f"{_share(part.fnir, part.fnir_low, part.fnir_high)}"
        )
    yield ""
    yield "What it does not know"
    yield from (f"  {limit}" for limit in report.limits)
    if report.lookalikes:
        yield ""
        yield "Most alike pictures of two persons (one person under two names?)"
        for pair in report.lookalikes:
            yield f"  {pair.similarity:.3f}  {pair.first}  {pair.second}"
    if report.unlike:
        yield ""
        yield "Least alike pictures of one person (two persons in one folder?)"
        for pair in report.unlike:
            yield f"  {pair.similarity:.3f}  {pair.first}  {pair.second}"
    if report.refused:
        yield ""
        yield "Refused pictures"
        for refusal in report.refused:
            yield f"  {refusal.file}: {refusal.message}"


def _share(rate: float | None, low: float | None, high: float | None) -> str:
    if rate is None or low is None or high is None:
        return f"{'–':>17}"
    return f"{rate:6.2%} ({low:.1%}-{high:.1%})"


def _estimate(estimate: EstimateView, digits: int) -> str:
    return (
        f"{estimate.value:.{digits}f} (95 %: {estimate.low:.{digits}f} to "
        f"{estimate.high:.{digits}f})"
    )


def _basis(extrapolated: bool) -> str:
    return "extrapolated" if extrapolated else "measured"
