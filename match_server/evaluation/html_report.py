"""Writes a report as one HTML file that needs no network and no other file."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from match_server.evaluation.charts import HEIGHT, WIDTH, Chart, evaluation_charts
from match_server.evaluation.report import Report
from match_server.schemas.calibrations import CalibrationFile

_TEMPLATES = Path(__file__).parent / "templates"
CHART_STYLE = _TEMPLATES / "charts.css"


def html_report(report: Report, file: CalibrationFile) -> str:
    """Returns the page: figures, DET curve, histograms, FPIR by gallery size, slices, refusals."""
    styles = (CHART_STYLE, _TEMPLATES / "evaluation.css")
    return (
        _templates()
        .get_template("evaluation.html")
        .render(
            report=report,
            file=file,
            charts=charts_html(evaluation_charts(file)),
            style="".join(path.read_text(encoding="utf-8") for path in styles),
        )
    )


def charts_html(charts: Iterable[Chart]) -> list[Markup]:
    """Returns each chart as an SVG with its legend; `CHART_STYLE` is their style sheet."""
    template = _templates().get_template("chart.html")
    drawn = (template.render(chart=chart, width=WIDTH, height=HEIGHT) for chart in charts)
    return [Markup(text) for text in drawn]  # noqa: S704  # the template escapes its values


@cache
def _templates() -> Environment:
    return Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True)
