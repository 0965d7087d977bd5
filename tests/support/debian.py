"""A clean Debian that boots with a systemd of its own, where the installer is run for real.

`./dev setup --all` puts its root into the user's cache (mmdebstrap) and installs systemd-nspawn. It
has Python and nothing else that Muster needs: no npm, no compiler, no headers.
"""

import ast
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT_ARCHIVE = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "muster" / "debian.tar"
)
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_PASSED = ("PIP_", "NPM_CONFIG_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "NODE_EXTRA_CA_CERTS")
_BOOT_S = 60.0


def why_not() -> str | None:
    """Why this machine cannot run it; None where it can."""
    if os.geteuid() != 0:
        return "only root can boot a Debian in systemd-nspawn"
    if shutil.which("systemd-nspawn") is None or not ROOT_ARCHIVE.is_file():
        return "there is no clean Debian here: `./dev setup --all` makes it"
    return None


class Debian:
    """A running machine; it shares the network of this one."""

    def __init__(self, root: Path, leader: int, environment: Mapping[str, str]) -> None:
        self.root = root
        self.environment = dict(environment)  # how pip and npm reach their registries
        self.leader = leader
        self._enter = ["nsenter", "--target", str(leader), "--mount", "--uts", "--ipc", "--pid"]
        self._enter += ["--root", "--wd", "env", "-i", "PATH=/usr/local/bin:/usr/bin:/usr/sbin"]

    def run(self, *words: str, check: bool = True, **more: str) -> str:
        """What a command of root's says, its errors as well; AssertionError where it fails."""
        assignments = [f"{name}={value}" for name, value in {**self.environment, **more}.items()]
        done = subprocess.run(
            [*self._enter, "HOME=/root", *assignments, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit)


@contextmanager
def booted(folder: Path) -> Iterator[Debian]:
    """A clean Debian that has booted below `folder`; it is gone afterwards."""
    root = folder / "debian"
    root.mkdir()
    subprocess.run(["tar", "-xf", str(ROOT_ARCHIVE), "-C", str(root)], check=True)
    environment, shared = _registries()
    command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe"]
    command += ["--resolv-conf=copy-host", f"--directory={root}", "--machine=muster-test"]
    command += [f"--bind-ro={path}" for path in shared]
    log = folder / "boot.log"
    with log.open("wb") as log_file:
        nspawn = subprocess.Popen(
            [*command, "--boot"], stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file
        )
    try:
        yield _entered(root, nspawn, environment, log)
    finally:
        nspawn.kill()  # and with it the machine, of which nothing is kept
        nspawn.wait()
        shutil.rmtree(root, ignore_errors=True)


def _entered(
    root: Path, nspawn: "subprocess.Popen[bytes]", environment: Mapping[str, str], log: Path
) -> Debian:
    """The machine, once its systemd says that all units were started."""
    until_s = time.monotonic() + _BOOT_S
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    while time.monotonic() < until_s and nspawn.poll() is None:
        for leader in children.read_text().split():
            machine = Debian(root, int(leader), environment)
            state = machine.run("systemctl", "is-system-running", check=False).strip()
            if state in ("running", "degraded"):
                return machine
        time.sleep(0.2)
    raise AssertionError(f"the clean Debian did not boot:\n{log.read_text()}")


def _registries() -> tuple[dict[str, str], list[str]]:
    """The settings of pip and npm on this machine, as variables, and the files that they name."""
    variables = {
        name: value for name, value in os.environ.items() if name.upper().startswith(_PASSED)
    }
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section != ":env:":
            variables.setdefault(
                f"PIP_{name.upper().replace('-', '_')}", str(ast.literal_eval(value))
            )
    files = [_CERTIFICATES, *_paths(variables.values())]
    own = Path.home() / ".npmrc"
    if own.is_file():
        variables["NPM_CONFIG_USERCONFIG"] = "/etc/npmrc"
        files.append(f"{own}:/etc/npmrc")
    return variables, files


def _paths(values: Iterable[str]) -> Iterator[str]:
    for value in values:
        for word in value.split():
            path = word.removeprefix("file://")
            if path.startswith("/") and Path(path).exists():
                # A folder that is laid out as an index has the files themselves beside it.
                yield path.removesuffix("/").removesuffix("/simple")
