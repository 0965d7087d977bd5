"""`match-server evaluate`: from a folder to a report, plots and a calibration."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from sqlalchemy import update

from match_server.commands.evaluate import EvaluationRequest, run
from match_server.container import build_services
from match_server.db.tables import Collection
from match_server.evaluation.text_report import text_report
from match_server.process.bootstrap import prepare
from match_server.schemas.calibrations import CalibrationFile
from match_server.services.faces.face_engine import FaceEngine
from match_server.settings import Settings
from shared.errors import ConfigurationError, PackError, Unusable


@pytest.fixture
def services(tmp_path, helpers):
    """Services over SQLite only: these tests do not depend on the database."""
    settings = Settings(data_dir=tmp_path / "data")
    prepare(settings)
    faces = FaceEngine(helpers.MODEL, 512, helpers.PaintedFaces)
    made = build_services(settings, faces=faces)
    made.first_start()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path, helpers):
    """Three painted people with three pictures each, and unusable files."""
    people = {"ann": (200, 30, 30), "bea": (30, 200, 30), "cyd": (30, 30, 200)}
    for name, colour in people.items():
        (tmp_path / "people" / name).mkdir(parents=True)
        for side in (40, 60, 80):
            picture = helpers.paint((colour, side))
            (tmp_path / "people" / name / f"{side}.png").write_bytes(picture)
    ann = tmp_path / "people" / "ann"
    (ann / "again.png").write_bytes((ann / "40.png").read_bytes())
    (ann / "dark.png").write_bytes(helpers.paint(((20, 10, 10), 60)))
    (ann / "two.png").write_bytes(helpers.paint(((200, 30, 30), 60), ((30, 200, 30), 50)))
    (ann / "bystander.png").write_bytes(helpers.paint(((200, 30, 30), 90), ((99, 99, 99), 20)))
    (ann / "empty.png").write_bytes(helpers.paint())
    (ann / "letter.txt").write_text("no picture")
    (tmp_path / "people" / "stray.png").write_bytes(helpers.paint(((90, 90, 90), 40)))
    return tmp_path / "people"


def _request(folder, tmp_path, **changes):
    fields = {"collection": "default", "false_alarms": 1.0, "traffic": 1000.0, **changes}
    return EvaluationRequest(folder=folder, out=tmp_path / "out", **fields)


def test_a_fault_at_one_picture_and_a_name_that_is_not_utf8_end_no_evaluation(
    services, folder, tmp_path, helpers, monkeypatch, caplog
):
    analyze = helpers.PaintedFaces.analyze

    def failing(self, image, *arguments, **options):
        if image[20, 20].tolist() == [1, 2, 3]:
            raise ZeroDivisionError("in a decoder")
        return analyze(self, image, *arguments, **options)

    monkeypatch.setattr(helpers.PaintedFaces, "analyze", failing)
    odd = os.fsdecode(b"caf\xe9.png")
    (folder / "ann" / odd).write_bytes(helpers.paint(((1, 2, 3), 80)))
    done = run(services, _request(folder, tmp_path), adopt=False, plots=False)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    refused = {one["file"]: one["reasons"] for one in report["refused"]}
    assert refused[r"ann/caf\xe9.png"] == ["internal"]
    names = [path.name for path in done.written]
    assert names == ["calibration.json", "report.json", "report.html"]
    assert [record.getMessage() for record in caplog.records if record.exc_info] == [
        "Failed to read a picture"
    ]


def test_every_picture_is_compared_or_refused_with_a_reason(services, folder, tmp_path):
    done = run(services, _request(folder, tmp_path), adopt=False, plots=False)
    refused = {one.file: one.reasons for one in done.report.refused}
    assert refused == {
        "ann/again.png": ["duplicate"],
        "ann/dark.png": ["brightness"],
        "ann/two.png": ["EXCEEDS_MAX_FACES"],
        "ann/empty.png": ["no_face"],
        "ann/letter.txt": ["unsupported_media"],
        "stray.png": ["no_person"],
    }
    data = done.report.data
    assert (data.pictures, data.persons, data.refused) == (10, 3, 6)
    assert data.genuine_pairs == 6 + 3 + 3
    assert data.impostor_pairs == 10 * 9 // 2 - 12
    assert services.collections.get("default").templates == 0


def test_the_files_say_the_same_as_the_report_and_name_nobody(services, folder, tmp_path):
    done = run(services, _request(folder, tmp_path), adopt=False, plots=False)
    text = (tmp_path / "out" / "calibration.json").read_text()
    file = CalibrationFile.model_validate_json(text, strict=True)
    assert file.digest() == file.sha256
    assert file.data == done.report.data
    assert not any(name in text for name in ("ann", "bea", "cyd", ".png"))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report == done.report.model_dump(mode="json")
    assert [path.name for path in done.written] == [
        "calibration.json",
        "report.json",
        "report.html",
    ]


def test_the_page_stands_alone_and_its_curves_are_drawn(services, folder, tmp_path):
    run(services, _request(folder, tmp_path), adopt=False, plots=False)
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r"(src|href)=|url\(|https?://|<script", page)
    titles = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert any("DET" in title for title in titles)
    assert any("FPIR" in title for title in titles)
    assert len(titles) == 4
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert "nan" not in ElementTree.tostring(ElementTree.fromstring(svg), encoding="unicode")
    assert "ann/dark.png" in page


def test_errors_are_told_by_what_may_cause_them(services, folder, tmp_path):
    (folder / "twin").mkdir()  # persons who look like this stranger are named
    (folder / "twin" / "1.png").write_bytes(
        cv2.imencode(".png", cv2.imread(str(folder / "ann" / "60.png")) + 0)[1].tobytes() + b"0"
    )
    groups = tmp_path / "groups.csv"
    groups.write_text("person,group\nann,left\nbea,right\ncyd,right\ntwin,left\n")
    request = _request(folder, tmp_path, groups=groups)
    done = run(services, request, adopt=False, plots=False)
    parts = {(one.by, one.value): one for one in done.report.slices}
    left, right = parts["group", "left"], parts["group", "right"]
    assert (left.persons, left.pictures, left.fpir) == (2, 5, 1.0)
    assert (right.persons, right.pictures, right.fpir, right.fnir) == (2, 6, 0.0, 0.0)
    assert 0.0 < right.fpir_high < 1.0, "two persons without an error prove little"
    assert parts["enrolled pictures", "2"].pictures == 6
    assert parts["fused shots", "3"].persons == 3
    assert sum(one.pictures for one in done.report.slices if one.by == "quality") == 11
    assert sum(one.pictures for one in done.report.slices if one.by == "face size") == 11
    assert "right" in text_report(done.report)


def test_a_file_that_names_no_groups_is_refused(services, folder, tmp_path):
    groups = tmp_path / "groups.csv"
    request = _request(folder, tmp_path, groups=groups)
    groups.write_text("name;group\nann;left\n")
    with pytest.raises(ConfigurationError, match="needs `person`"):
        run(services, request, adopt=False, plots=False)
    groups.write_text("person,group\nnobody,left\n")
    with pytest.raises(ConfigurationError, match="no folder is named"):
        run(services, request, adopt=False, plots=False)


def test_a_reference_is_the_calibration_with_what_it_was_measured_on(services, folder, tmp_path):
    reference = tmp_path / "packs" / "painted.json"
    request = _request(folder, tmp_path, reference=reference, pictures="painted squares")
    done = run(services, request, adopt=False, plots=False)
    file = CalibrationFile.model_validate_json(reference.read_text())
    assert file.reference.pictures == "painted squares"
    assert "not a measurement of this operator's cameras" in file.reference.note
    assert file.sha256 == file.digest()
    assert file.data == done.report.data


def test_lookalikes_under_two_names_and_strangers_in_one_folder_are_named(
    services, folder, tmp_path, helpers
):
    (folder / "twin").mkdir()
    (folder / "twin" / "1.png").write_bytes(helpers.paint(((200, 30, 30), 50)))
    (folder / "cyd" / "wrong.png").write_bytes(helpers.paint(((80, 80, 150), 50)))
    report = run(services, _request(folder, tmp_path), adopt=False, plots=False).report
    best = report.lookalikes[0]
    assert {Path(best.first).parent.name, Path(best.second).parent.name} == {"ann", "twin"}
    assert best.similarity > 0.99
    assert "cyd/wrong.png" in (report.unlike[0].first, report.unlike[0].second)
    text = text_report(report)
    assert "twin/1.png" in text
    assert "extrapolated" in text
    assert "cannot be measured" in text


def test_adopting_gives_the_collection_its_operating_point(services, folder, tmp_path):
    done = run(services, _request(folder, tmp_path), adopt=True, plots=False)
    assert done.adopted is not None
    kept = services.calibrations.get("default").calibration
    assert kept.sha256 == done.adopted.calibration.sha256
    assert services.collections.get("default").operating_point.fpir is not None


def test_wishes_become_thresholds_for_each_size_of_gallery(services, folder, tmp_path):
    request = _request(folder, tmp_path, false_alarms=10.0, traffic=100.0)
    report = run(services, request, adopt=False, plots=False).report
    assert [one.templates for one in report.identification] == [100, 1_000, 10_000, 100_000]
    assert all(one.fpir == 0.1 and one.extrapolated for one in report.identification)
    thresholds = [one.threshold for one in report.identification]
    assert thresholds == sorted(thresholds)
    decades = [one.decades for one in report.identification]
    assert decades == pytest.approx([decades[0] + step for step in range(4)], abs=0.05)


def test_plots_are_pictures_with_something_on_them(services, folder, tmp_path):
    pytest.importorskip("matplotlib")
    done = run(services, _request(folder, tmp_path), adopt=False, plots=True)
    drawn = [path for path in done.written if path.suffix == ".png"]
    assert [path.name for path in drawn] == [
        "similarities.png", "errors.png", "det.png", "thresholds.png"
    ]  # fmt: skip
    for path in drawn:
        pixels = cv2.imread(str(path))
        assert pixels.shape[0] > 400
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_without_matplotlib_it_says_how_to_get_it(services, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigurationError, match="muster\\[evaluate\\]"):
        run(services, _request(folder, tmp_path), adopt=False, plots=True)
    assert (tmp_path / "out" / "calibration.json").exists(), "the figures are there all the same"


def test_what_cannot_be_evaluated_is_said(services, folder, tmp_path, helpers):
    (tmp_path / "nobody").mkdir()
    with pytest.raises(ConfigurationError, match="no pictures"):
        run(services, _request(tmp_path / "nobody", tmp_path), adopt=False, plots=False)
    (tmp_path / "one" / "ann").mkdir(parents=True)
    (tmp_path / "one" / "ann" / "1.png").write_bytes(helpers.paint(((200, 30, 30), 50)))
    with pytest.raises(Unusable, match="two persons"):
        run(services, _request(tmp_path / "one", tmp_path), adopt=False, plots=False)
    with services.database.write() as session:
        session.execute(update(Collection).values(model_id="another@1"))
    with pytest.raises(PackError, match="another@1"):
        run(services, _request(folder, tmp_path), adopt=False, plots=False)


@pytest.mark.models
@pytest.mark.skipif("MUSTER_TEST_FACES" not in os.environ, reason="needs pictures of real people")
def test_real_people_are_measured_by_the_command(tmp_path):
    folder = os.environ["MUSTER_TEST_FACES"]
    code = "from match_server.commands.cli import main; main()"
    data = ["--data-dir", str(tmp_path / "data")]
    subprocess.run([sys.executable, "-c", code, "migrate", *data], check=True)
    command = [sys.executable, "-c", code, "evaluate", folder, *data]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--no-plots", "--adopt", "--json"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["report"]
    assert report["data"]["persons"] >= 8
    assert report["d_prime"]["low"] > 3
    assert report["eer"]["value"] < 0.05
    assert report["eer"]["high"] >= 1 - 0.05 ** (1 / report["data"]["person_pairs"])
    assert report["verification"][-1]["extrapolated"] is True
    assert all("groups/" not in one["first"] for one in report["lookalikes"])
    assert json.loads(done.stdout)["operating_point"]["fpir"] is not None
