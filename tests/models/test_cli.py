"""The command `face-models`, run as a person runs it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from models.cli import main
from models.face_models import open_models
from models.images.decoding import read_picture
from models.packs.store import require
from tests.models.test_manifest import written

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `face-models` with an empty cache of its own."""
    monkeypatch.setenv("MUSTER_MODELS_DIR", str(tmp_path / "cache"))
    return lambda *arguments: CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture
def own_manifest(tmp_path: Path) -> Path:
    """A manifest with one sample file beside it."""
    (tmp_path / "thing.bin").write_bytes(b"content")
    path = tmp_path / "own.toml"
    path.write_text(
        """
[packs.mine]
title = "Mine"
description = "A thing."
licence = "CC0-1.0"
commercial_use = false
homepage = "https://example.org"
[packs.mine.sources.there]
url = "file:thing.bin"
size = 7
[[packs.mine.files]]
name = "thing.bin"
role = "sample"
source = "there"
sha256 = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
"""
    )
    return path


def test_all_packs_are_listed_with_their_licences(run: Run) -> None:
    listed = {row["name"]: row for row in json.loads(run("list", "--json").output)}
    assert listed["compact"]["licence"] == "MIT"
    assert listed["compact"]["installed"] is False
    assert listed["buffalo_l"]["commercial_use"] is False
    assert listed["edgeface-xs"]["disputed"].startswith("the code's repositories say BSD-3-Clause")
    assert listed["edgeface-xs"]["missed_percent"] < listed["compact"]["missed_percent"] / 3
    assert listed["edgeface-xs"]["face_ms"] < listed["compact"]["face_ms"] * 1.1
    text = run("list").output
    assert "disputed" in text
    assert "a fifth of compact's errors in the same time" in text.replace("\n", " ")


def test_what_a_pack_costs_and_gives_is_told(run: Run) -> None:
    output = run("info", "retail-0095").output
    assert "misses 7.9 %" in output
    assert "(40.3928, 59.0815)" in output
    assert "DISPUTED" in run("info", "edgeface-s").output
    refused = run("pull", "retail-0095")
    assert refused.exit_code == 1
    assert "--from" in refused.output


def test_a_pack_is_pulled_verified_and_found_damaged(
    run: Run, own_manifest: Path, tmp_path: Path
) -> None:
    pulled = run("pull", "mine", "--accept-licence", "--manifest", own_manifest)
    assert pulled.exit_code == 0, pulled.output
    assert "CC0-1.0; commercial use NOT ALLOWED" in pulled.output
    assert run("verify").output == "mine: as installed\n"
    (tmp_path / "cache" / "mine" / "thing.bin").write_bytes(b"tampered")
    broken = run("verify", "mine", "--json")
    assert broken.exit_code == 1
    assert "thing.bin has sha256" in json.loads(broken.output)["problems"]["mine"][0]


def test_without_consent_nothing_is_pulled(run: Run, own_manifest: Path, tmp_path: Path) -> None:
    refused = run("pull", "mine", "--manifest", own_manifest)
    assert refused.exit_code == 1
    assert "--accept-licence" in refused.output
    assert not (tmp_path / "cache" / "mine").exists()


def test_pull_answers_in_json(run: Run, own_manifest: Path, tmp_path: Path) -> None:
    answer = run("pull", "mine", "--accept-licence", "--json", "--manifest", own_manifest)
    assert json.loads(answer.output) == [
        {"name": "mine", "folder": str(tmp_path / "cache" / "mine")}
    ]


def test_a_failure_is_one_sentence_and_exit_status_one(run: Run) -> None:
    failed = run("pull", "nosuch")
    assert failed.exit_code == 1
    assert failed.output.startswith("Error: there is no pack 'nosuch'")


def test_verifying_what_is_not_installed_fails(run: Run) -> None:
    assert run("verify", "compact").exit_code == 1
    nothing = run("verify")
    assert nothing.exit_code == 0
    assert "nothing is installed" in nothing.output


def test_a_pack_of_another_version_is_to_be_pulled_again(
    run: Run, own_manifest: Path, tmp_path: Path
) -> None:
    run("pull", "mine", "--accept-licence", "--manifest", own_manifest)
    cache = tmp_path / "cache"
    receipt = (cache / "mine" / "installed.json").read_text().replace('"mine"', '"compact"')
    (cache / "mine" / "installed.json").write_text(receipt)
    (cache / "mine").rename(cache / "compact")
    older = run("verify", "compact")
    assert older.exit_code == 1
    assert "another version" in older.output


def test_info_prints_the_licence_page_and_every_file(run: Run, tmp_path: Path) -> None:
    output = run("info", "compact").output
    for part in ("MIT; commercial use allowed", "embedder.onnx", "87aacdfe57510db2", "320 x 240"):
        assert part in output
    facts = json.loads(run("info", "compact", "--json").output)
    assert facts["model_id"] == "compact-mobilefacenet-512@1"
    mine = run("info", "mine", "--manifest", written(tmp_path))
    assert "proprietary" in mine.output


@pytest.mark.parametrize("command", [[], ["list"], ["pull"], ["verify"], ["info"]])
def test_every_command_has_help_with_an_example(run: Run, command: list[str]) -> None:
    helped = run(*command, "--help")
    assert helped.exit_code == 0
    assert "Example: face-models" in helped.output


@pytest.mark.models
def test_the_faces_of_pictures_become_lines_with_templates(tmp_path: Path) -> None:
    picture = require("samples").folder / "obama.jpg"
    note = tmp_path / "note.jpg"
    note.write_text("no picture")
    result = CliRunner().invoke(main, ["embed", str(picture), str(note)])
    face, problem = (json.loads(line) for line in result.output.splitlines())
    assert (result.exit_code, problem["file"]) == (1, str(note))
    assert "text" in problem["error"]
    assert face["model_id"] == open_models().model_id
    assert abs(np.linalg.norm(face["vector"]) - 1) < 1e-3
    image = read_picture(picture.read_bytes())
    (expected,) = open_models().analyze(image)
    assert expected.template is not None
    np.testing.assert_array_equal(
        np.array(face["vector"], np.float16), expected.template.vector.astype(np.float16)
    )
    rows = tmp_path / "rows.npy"
    arguments = ["embed", str(picture), str(picture), "--largest", "--npy", str(rows)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert all("vector" not in line for line in lines)
    np.testing.assert_array_equal(np.load(rows), np.array([face["vector"]] * 2, np.float16))
