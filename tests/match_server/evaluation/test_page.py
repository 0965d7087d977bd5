"""The page about the operating point."""

import json
import re
from xml.etree import ElementTree

import pytest

from match_server.calibration.comparisons import compare
from match_server.evaluation.charts import HEIGHT, WIDTH, charts_of
from match_server.schemas.collections import Policy
from match_server.services.collection_ref import CollectionRef
from match_server.services.policy.operating_point import Traffic, operating_point
from match_server.services.policy.operating_point_view import view_of


@pytest.fixture
def visitor(api):
    api.client.post("/login", data={"key": api.key("viewer")})
    return api


def _page(api, query=""):
    response = api.client.get(f"/calibration{query}")
    return response.status_code, response.get_data(as_text=True)


def test_it_is_behind_the_login(api):
    response = api.client.get("/calibration")
    assert response.status_code == 302
    assert response.headers["Location"] == "/login"


def test_without_a_calibration_it_says_how_to_measure_one(visitor):
    status, page = _page(visitor)
    assert status == 200
    assert "match-server evaluate people/ --collection default --adopt" in page
    assert "0.350" in page


def test_it_shows_what_the_collection_decides_by_and_why(visitor, normal_calibration, helpers):
    file = json.loads(normal_calibration(helpers.MODEL).model_dump_json())
    visitor.ok("PUT", "/v1/collections/default/calibration", json=file)
    policy = {"false_alarms_per_day": 2, "traffic": 500}
    changed = visitor.ok("PATCH", "/v1/collections/default", json={"policy": policy})
    status, page = _page(visitor, "?collection=default")
    assert status == 200
    point = changed["operating_point"]
    assert f"<strong>{point['threshold']:.3f}</strong>" in page
    assert point["explanation"].split(".")[0] in page
    assert "500, given" in page
    assert page.count("<figure") == 3
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert "nan" not in ElementTree.tostring(ElementTree.fromstring(svg), encoding="unicode")
    assert "style=" not in page, "the content policy forbids styles in the page"


def test_names_of_collections_cannot_become_markup(visitor):
    status, page = _page(visitor, "?collection=<script>alert(1)</script>")
    assert status == 404
    assert "<script>alert" not in page


@pytest.mark.parametrize("persons", [2, 8, 60])
def test_charts_stay_within_their_frame_whatever_was_measured(people, persons, clock):
    rows, who = people.faces(persons, persons, 3)
    file = people.calibrated(compare(rows, who))
    scope = CollectionRef(
        1, "c", "some@1", 128, 0, False, clock.now(), 1, 70, 9, Policy(threshold=0.4)
    )
    calibration = people.calibration(file)
    point = view_of(operating_point(scope, calibration, Traffic(None, None)))
    for chart in charts_of(file, point):
        for shape in chart.shapes:
            assert shape.path.startswith("M")
            numbers = [float(one) for one in re.findall(r"[\d.]+", shape.path)]
            assert all(0 <= one <= WIDTH for one in numbers)
            for pair in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", shape.path):
                assert 0 <= float(pair[1]) <= HEIGHT
