"""The manifest: what is built in, and what is refused of a user's own."""

from pathlib import Path

import pytest

from models.packs.manifest import Manifest, built_in_manifest, read_manifest
from shared.errors import PackError

MINE = """
[packs.mine]
title = "Mine"
description = "My own embedder."
licence = "proprietary"
commercial_use = true
homepage = "https://example.org"
model_id = "{model_id}"
[packs.mine.sources.own]
url = "file:{file}"
size = 10
[[packs.mine.files]]
name = "embedder.onnx"
role = "embedder"
architecture = "embedding"
source = "own"
sha256 = "{sha256}"
dimension = 128
input = {{ width = 112, height = 112, colour = "bgr", mean = 127.5, divisor = 127.5 }}
{more}
"""


def written(tmp_path: Path, **changes: str) -> Path:
    path = tmp_path / "manifest.toml"
    values = {"model_id": "mine-128@1", "file": "own.onnx", "sha256": "0" * 64, "more": ""}
    path.write_text(MINE.format(**(values | changes)))
    return path


@pytest.fixture(scope="module")
def known() -> Manifest:
    return built_in_manifest()


def test_the_packs_that_are_promised_are_built_in(known: Manifest) -> None:
    assert set(known.packs) >= {
        "compact", "centerface", "samples", "opencv-zoo", "buffalo_s", "buffalo_l",
        "yunet", "edgeface-xxs", "edgeface-xs", "edgeface-s", "retail-0095",
    }  # fmt: skip


def test_each_model_id_names_exactly_one_file(known: Manifest) -> None:
    ids = {
        pack.model_id: embedder.sha256
        for pack in known.packs.values()
        if (embedder := pack.file_for("embedder"))
    }
    assert len(set(ids.values())) == len(ids) >= 4
    assert ids["compact-mobilefacenet-512@1"].startswith("87aacdfe57510db2")


def test_non_commercial_packs_say_so(known: Manifest) -> None:
    refused = {name for name, pack in known.packs.items() if not pack.commercial_use}
    disputed = {name for name, pack in known.packs.items() if pack.disputed}
    assert disputed == {"edgeface-xxs", "edgeface-xs", "edgeface-s"}
    assert refused == {"buffalo_s", "buffalo_l"} | disputed


def test_nothing_is_fetched_that_is_not_pinned(known: Manifest) -> None:
    for pack in known.packs.values():
        for source in pack.sources.values():
            assert source.url.startswith(("http", "npm:", "pypi:", "file:"))
            assert not source.url.startswith(("npm:", "pypi:")) or source.sha256


def test_a_users_pack_joins_the_built_in_ones(tmp_path: Path, known: Manifest) -> None:
    joined = known.joined(read_manifest(written(tmp_path)))
    assert set(joined.packs) == {*known.packs, "mine"}
    assert joined.packs["mine"].sources["own"].url == f"file:{tmp_path}/own.onnx"


def test_an_absolute_path_stays_as_it_is(tmp_path: Path) -> None:
    mine = read_manifest(written(tmp_path, file="/models/own.onnx"))
    assert mine.packs["mine"].sources["own"].url == "file:/models/own.onnx"


def test_a_model_id_cannot_come_to_mean_another_file(tmp_path: Path, known: Manifest) -> None:
    mine = read_manifest(written(tmp_path, model_id="compact-mobilefacenet-512@1"))
    with pytest.raises(PackError, match="belongs to another file"):
        known.joined(mine)


def test_a_built_in_pack_cannot_be_replaced(tmp_path: Path, known: Manifest) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("packs.mine", "packs.compact"))
    with pytest.raises(PackError, match="built in"):
        known.joined(read_manifest(path))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"more": "unheard = 1"}, "packs.mine.files.0.unheard"),
        ({"sha256": "abc"}, "packs.mine.files.0.sha256"),
        ({"more": "steps = ['shrink']"}, "packs.mine.files.0.steps.0"),
        ({"model_id": ""}, "packs.mine.model_id"),
        ({"more": "]["}, "is not TOML"),
    ],
)
def test_a_mistake_in_a_manifest_is_named_with_its_place(
    tmp_path: Path, change: dict[str, str], complaint: str
) -> None:
    with pytest.raises(PackError, match=complaint):
        read_manifest(written(tmp_path, **change))


@pytest.mark.parametrize(
    ("was", "becomes", "complaint"),
    [
        ('source = "own"', 'source = "nowhere"', "no source"),
        ("dimension = 128\n", "", "names its dimension"),
        ('architecture = "embedding"\n', "", "names its architecture"),
        ('model_id = "mine-128@1"\n', "", "has a model_id"),
        ("divisor = 127.5", "divisor = 0.0", "above zero"),
        ('colour = "bgr", mean = 127.5', 'colour = "gray", mean = [1, 2, 3]', "one mean"),
        ("file:own.onnx", "ftp://own.onnx", "sources.own.url"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    tmp_path: Path, was: str, becomes: str, complaint: str
) -> None:
    path = written(tmp_path)
    assert was in path.read_text()
    path.write_text(path.read_text().replace(was, becomes))
    with pytest.raises(PackError, match=complaint):
        read_manifest(path)


def test_a_manifest_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"none\.toml cannot be read"):
        read_manifest(tmp_path / "none.toml")


def test_an_embedder_may_have_a_chip_and_reference_points_of_its_own(tmp_path: Path) -> None:
    points = "reference = [[40, 59], [87, 59], [64, 82], [45, 105], [84, 105]]"
    path = written(tmp_path, more=points)
    path.write_text(path.read_text().replace("112", "128"))
    file = read_manifest(path).pack("mine").files[0]
    assert file.reference == ((40, 59), (87, 59), (64, 82), (45, 105), (84, 105))


@pytest.mark.parametrize(
    ("points", "problem"),
    [
        ("", "names its `reference`"),
        ("reference = [[40, 59], [87, 59], [64, 82], [45, 105]]", "reference.4"),
        ("reference = [[40, 59], [87, 59], [64, 82], [45, 105], [84, 128]]", "lie inside 128 x 12"),
        ("reference = [[87, 59], [40, 59], [64, 82], [45, 105], [84, 105]]", "eye on the left"),
    ],
)
def test_reference_points_that_show_no_face_are_refused(
    tmp_path: Path, points: str, problem: str
) -> None:
    path = written(tmp_path, more=points)
    path.write_text(path.read_text().replace("112", "128"))
    with pytest.raises(PackError, match=problem):
        read_manifest(path)
