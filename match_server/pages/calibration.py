"""The page about a collection's operating point: what it decides by, and how that is known."""

from flask import (
    Blueprint,
    Request,
    make_response,
    redirect,
    render_template,
    request,
    send_file,
    url_for,
)
from werkzeug.wrappers import Response as AnyResponse

from match_server.api.auth import Gatekeeper
from match_server.calibration.calibration import Calibration, fmr_for_fpir
from match_server.container import Services
from match_server.evaluation.charts import charts_of
from match_server.evaluation.html_report import CHART_STYLE, charts_html
from match_server.schemas.base import Paging
from match_server.schemas.collections import CollectionQuery, CollectionView
from shared.errors import NotFound

_HISTORY = 20
_GROWTH = (1, 10, 100)
_COLLECTIONS = 100


def add_calibration_page(blueprint: Blueprint, services: Services, gatekeeper: Gatekeeper) -> None:
    """Let the blueprint show /calibration to whoever may see the live page."""

    @blueprint.get("/calibration")
    def calibration() -> AnyResponse:
        visitor = gatekeeper.viewer(request)
        if visitor is None:
            return redirect(url_for("pages.login"))
        return _shown(services, request, by_key=visitor.key_id != "open-page")

    @blueprint.get("/static/charts.css")
    def chart_style() -> AnyResponse:
        return send_file(CHART_STYLE, conditional=True)


def _shown(services: Services, asked: Request, *, by_key: bool) -> AnyResponse:
    collections = services.collections.page(CollectionQuery(size=_COLLECTIONS)).items
    wanted = asked.args.get("collection", services.settings.default_collection)
    try:
        chosen = services.collections.get(wanted)
    except NotFound:
        chosen = None
    adopted = None
    if chosen is not None:
        try:
            adopted = services.calibrations.get(chosen.name)
        except NotFound:
            adopted = None
    history = (
        [] if chosen is None
        else services.calibrations.history(chosen.name, Paging(size=_HISTORY)).items
    )  # fmt: skip
    page = render_template(
        "calibration.html",
        by_key=by_key,
        names=[one.name for one in collections],
        wanted=wanted,
        chosen=chosen,
        adopted=adopted,
        history=history,
        charts=charts_html(charts_of(adopted.calibration, chosen.operating_point))
        if adopted and chosen
        else [],
        growth=_growth(chosen, Calibration(adopted.calibration)) if adopted and chosen else [],
    )
    return make_response(page, 200 if chosen is not None else 404)


def _growth(chosen: CollectionView, calibration: Calibration) -> list[tuple[int, float, float]]:
    """Templates, threshold and FNIR of this gallery and of larger ones, at the same FPIR."""
    point = chosen.operating_point
    if point.fpir is None:
        return []
    rows = []
    for times in _GROWTH:
        templates = max(point.templates, 1) * times
        comparisons = templates * point.probes_per_track
        threshold = point.threshold
        if point.set_by != "threshold" and times > 1:
            wanted = fmr_for_fpir(min(point.fpir, 0.99), comparisons)
            threshold = max(threshold, calibration.threshold_for(wanted).similarity)
        rows.append((templates, threshold, calibration.fnir_at(threshold, templates)))
    return rows
