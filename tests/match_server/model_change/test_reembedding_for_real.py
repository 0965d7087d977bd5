"""A change to another real model: its own ONNX file, real photos, and a killed process."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from match_server.commands.cli import main
from match_server.container import build_services
from match_server.process.bootstrap import prepare
from match_server.schemas.collections import CollectionCreate
from match_server.schemas.persons import Enrollment, PersonCreate
from match_server.schemas.search import SearchRequest
from match_server.services.enrollment.enrollment import PersonKey
from match_server.settings import Settings
from models.packs.install import pull
from models.packs.manifest import built_in_manifest, read_manifest
from models.packs.store import default_cache, require
from models.samples import sample_path

pytestmark = pytest.mark.models

PEOPLE = {
    "Obama": ("obama.jpg", "obama2.jpg"),
    "Biden": ("biden.jpg",),
    "Collins": ("astronaut.png",),
    "Hopper": ("grace_hopper.jpg",),
}
MANIFEST = """
[packs.turned]
title = "The default embedder, its templates turned"
description = "Another model to everybody who compares its templates with the default ones."
licence = "MIT"
commercial_use = true
homepage = "https://example.org"
model_id = "turned-512@1"

[packs.turned.sources.file]
url = "file:turned.onnx"
size = 1

[[packs.turned.files]]
name = "turned.onnx"
role = "embedder"
architecture = "embedding"
source = "file"
sha256 = "{sha256}"
input = {{ width = 112, height = 112, colour = "rgb", mean = 127.0, divisor = 128.0 }}
output = "512 features, not normalised"
dimension = 512
"""


@pytest.fixture
def turned(tmp_path, monkeypatch):
    """The pack `turned`: the default embedder and a fixed rotation, which keeps every cosine."""
    cache = tmp_path / "models"
    cache.mkdir()
    for name in ("compact", "samples"):
        (cache / name).symlink_to(default_cache() / name)
    model = onnx.load(require("compact").folder / "embedder.onnx")
    (output,) = model.graph.output
    rotation = np.linalg.qr(np.random.default_rng(7).standard_normal((512, 512)))[0]
    weights = numpy_helper.from_array(rotation.astype(np.float32), "rotation")
    model.graph.initializer.append(weights)
    model.graph.node.append(helper.make_node("MatMul", [output.name, "rotation"], ["turned"]))
    output.name = "turned"
    onnx.save(model, tmp_path / "turned.onnx")
    sha256 = hashlib.sha256((tmp_path / "turned.onnx").read_bytes()).hexdigest()
    (tmp_path / "turned.toml").write_text(MANIFEST.format(sha256=sha256))
    pull("turned", built_in_manifest().joined(read_manifest(tmp_path / "turned.toml")), cache=cache)
    monkeypatch.setenv("MUSTER_MODELS_DIR", str(cache))


@pytest.fixture
def settings(tmp_path, turned, monkeypatch):
    """An encrypted collection of real faces, each photo and its mirror image."""
    key_file = tmp_path / "master.keys"
    CliRunner().invoke(main, ["keyring", "new", "--file", str(key_file)])
    monkeypatch.setenv("MUSTER_ENCRYPTION_KEY_FILE", str(key_file))
    settings = Settings(data_dir=tmp_path / "data")
    prepare(settings)
    services = build_services(settings)
    services.first_start()
    services.collections.create(CollectionCreate(name="staff", encrypted=True))
    for name, files in PEOPLE.items():
        for file in files:
            for picture in (sample_path(file).read_bytes(), mirrored(file)):
                who = PersonKey(name, by_name=True, new=PersonCreate(name=name))
                services.enroller.enroll(
                    "staff", who, Enrollment(image=picture, store=True, force=True)
                )
    services.close()
    return settings


def mirrored(file):
    return cv2.imencode(".png", cv2.flip(cv2.imread(str(sample_path(file))), 1))[1].tobytes()


def who_is(settings, file):
    services = build_services(settings)
    try:
        answer = services.identification.search(
            "staff", SearchRequest(image=sample_path(file).read_bytes())
        )
    finally:
        services.close()
    (probe,) = answer.probes
    return probe.decision, probe.person and probe.person.name


def run(settings, *words):
    command = ["reembed", "staff", *words, "--data-dir", str(settings.data_dir), "--json"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


DIES = """
import os, signal
from match_server.process.open_services import open_services
from match_server.services.faces.engines import installed_engine
from match_server.settings import load_settings
from models.packs.choice import DetectorChoice

with open_services(load_settings()) as services:
    models = installed_engine("turned", services.settings.picture_limits, DetectorChoice())
    die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    services.reembedding.prepare("staff", models, die)
"""


def test_a_change_that_is_killed_goes_on_is_compared_made_and_undone(settings):
    environment = {**os.environ, "MUSTER_DATA_DIR": str(settings.data_dir)}
    died = subprocess.run([sys.executable, "-c", DIES], env=environment, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL
    services = build_services(settings)
    begun = services.reembedding.state("staff")
    services.close()
    assert 0 < begun.done < begun.templates == 10
    assert who_is(settings, "obama3.jpg") == ("identified", "Obama")

    answer = run(settings, "--pack", "turned", "--compare")
    assert (answer["done"], answer["left"], answer["switched"]) == (10, [], False)
    compared = answer["comparison"]
    assert (compared["templates"], compared["persons"]) == (10, 4)
    assert (compared["genuine"], compared["impostor"]) == (9, 36)
    # A rotation leaves every angle as it is: only the rounding to float16 differs.
    for figure in ("genuine_mean", "impostor_mean", "d_prime", "first_right"):
        assert compared["other"][figure] == pytest.approx(compared["current"][figure], rel=5e-3)
    assert compared["other"]["fmr"] <= compared["current"]["fmr"]

    assert run(settings, "--switch", "--threshold", "0.35")["model_id"] == "turned-512@1"
    assert who_is(settings, "obama3.jpg") == ("identified", "Obama")
    assert run(settings, "--rollback")["switched"] is False
    assert who_is(settings, "obama3.jpg") == ("identified", "Obama")
    run(settings, "--switch", "--threshold", "0.35")
    assert run(settings, "--finish")["deleted"] == 10
    assert who_is(settings, "obama3.jpg") == ("identified", "Obama")
