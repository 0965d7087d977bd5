"""The house rules that no single room can keep."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

_LOADED = "import sys; import {module}; print(*sys.modules)"


def loaded_by(module: str, *, whole_names: bool = False) -> set[str]:
    """The top-level packages in memory after a fresh interpreter has imported `module`.

    With `whole_names`, all modules.
    """
    done = subprocess.run(
        [sys.executable, "-c", _LOADED.format(module=module)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = set(done.stdout.split())
    return names if whole_names else {name.partition(".")[0] for name in names}


def test_imports_go_one_way() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([str(program)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "module", ["edge_agent.cli.main", "edge_agent.factory", "edge_agent.vision.pipeline"]
)
def test_an_edge_box_needs_nothing_of_the_server(module: str) -> None:
    assert not loaded_by(module) & {"match_server", "flask", "sqlalchemy", "alembic", "gunicorn"}


@pytest.mark.parametrize("module", ["match_server.commands.processes", "match_server.app"])
def test_a_server_needs_nothing_of_the_agent(module: str) -> None:
    assert "edge_agent" not in loaded_by(module)


@pytest.mark.parametrize("module", ["edge_agent.factory", "models.face_models", "match_server.app"])
def test_the_graph_rewriting_library_is_for_installing_only(module: str) -> None:
    assert "onnx" not in loaded_by(module)


@pytest.mark.parametrize(
    "module", ["match_server.process.serve", "match_server.commands.processes"]
)
def test_what_forks_has_not_loaded_the_runtime_that_starts_threads(module: str) -> None:
    assert "onnxruntime" not in loaded_by(module)


# The occlusion network is our own: trained by tools/occlusion, smaller than 1 MiB, and nowhere else
# to be had. Weights of others stay out, however small.
OUR_WEIGHTS = "models/occlusion/occlusion.onnx"


def test_no_weights_or_media_are_committed_but_our_own_small_network() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    forbidden = {".onnx", ".mp4", ".dat", ".pt", ".npz", ".tflite"}
    assert {name for name in listed if Path(name).suffix in forbidden} <= {OUR_WEIGHTS}
    assert (ROOT / OUR_WEIGHTS).stat().st_size < 1 << 20


@pytest.mark.parametrize("module", ["edge_agent.factory", "models.face_models", "match_server.app"])
def test_how_weights_were_trained_is_no_part_of_the_running_programs(module: str) -> None:
    assert "tools.occlusion" not in loaded_by(module, whole_names=True)


_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("systemd/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_a_document_leads_to_a_file(document: Path) -> None:
    targets = _LINK.findall(document.read_text(encoding="utf-8"))
    assert [name for name in targets if not (document.parent / name).exists()] == []


def test_every_document_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    targets = _LINK.findall(index.read_text(encoding="utf-8"))
    linked = {(index.parent / name).resolve() for name in targets}
    assert [path.name for path in DOCUMENTS if path not in linked | {index}] == []


def test_every_test_that_a_document_names_exists() -> None:
    existing = {path.name for path in ROOT.glob("tests/**/test_*.py")}
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"\btest_\w+\.py\b", document.read_text(encoding="utf-8"))
    }
    assert named - existing == set()
