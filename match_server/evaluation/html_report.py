"""A report as one HTML file that needs no network and no other file."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from match_server.evaluation.report import Report
from match_server.pages.charts import HEIGHT, WIDTH, evaluation_charts
from match_server.schemas.calibrations import CalibrationFile

_PAGES = Path(__file__).parent.parent / "pages"


def page_of(report: Report, file: CalibrationFile) -> str:
    """The page: figures, DET curve, score histograms, FPIR by gallery size, slices, refusals."""
    environment = Environment(
        loader=FileSystemLoader(_PAGES / "templates"), autoescape=True, trim_blocks=True
    )
    style = "".join(
        (_PAGES / "static" / name).read_text(encoding="utf-8")
        for name in ("calibration.css", "evaluation.css")
    )
    return environment.get_template("evaluation.html").render(
        report=report,
        file=file,
        charts=evaluation_charts(file),
        width=WIDTH,
        height=HEIGHT,
        style=style,
    )
