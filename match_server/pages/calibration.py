"""The page about a collection's operating point: its thresholds and how they were measured."""

import contextlib
from typing import Any

from flask import Blueprint, make_response, render_template, request, send_file
from werkzeug.wrappers import Response as AnyResponse

from match_server.calibration.calibration import Calibration, fmr_for_fpir
from match_server.container import Services
from match_server.evaluation.charts import charts_of
from match_server.evaluation.html_report import CHART_STYLE, charts_html
from match_server.pages.lists import collection_names
from match_server.schemas.base import Paging
from match_server.schemas.collections import CollectionView
from shared.errors import NotFound

_HISTORY = 20
_GROWTH = (1, 10, 100)


def add_calibration_page(blueprint: Blueprint, services: Services) -> None:
    """Adds `/calibration`, and the style sheet of its charts."""

    @blueprint.get("/static/charts.css")
    def chart_style() -> AnyResponse:
        return send_file(CHART_STYLE, conditional=True)

    @blueprint.get("/calibration")
    def calibration() -> AnyResponse:
        name = request.args.get("collection", services.settings.default_collection)
        collection = adopted = None
        with contextlib.suppress(NotFound):
            collection = services.collections.get(name)
            adopted = services.calibrations.get(collection.name)
        values: dict[str, Any] = {
            "names": collection_names(services),
            "name": name,
            "collection": collection,
            "adopted": adopted,
            "charts": [],
            "growth": [],
            "history": [],
        }
        if collection is not None:
            paging = Paging(size=_HISTORY)
            values["history"] = services.calibrations.history(collection.name, paging).items
        if collection is not None and adopted is not None:
            file = adopted.calibration
            values["charts"] = charts_html(charts_of(file, collection.operating_point))
            values["growth"] = _growth(collection, Calibration(file))
        page = render_template("calibration.html", **values)
        return make_response(page, 200 if collection is not None else 404)


def _growth(collection: CollectionView, calibration: Calibration) -> list[tuple[int, float, float]]:
    """Returns templates, threshold and FNIR of this gallery and of larger ones, at its FPIR."""
    point = collection.operating_point
    if point.fpir is None:
        return []
    rows = []
    for times in _GROWTH:
        templates = max(point.templates, 1) * times
        comparisons = templates * point.probes_per_track
        threshold = point.threshold
        if point.set_by != "threshold" and times > 1:
            fmr = fmr_for_fpir(min(point.fpir, 0.99), comparisons)
            threshold = max(threshold, calibration.threshold_for(fmr).similarity)
        rows.append((templates, threshold, calibration.fnir_at(threshold, templates)))
    return rows
