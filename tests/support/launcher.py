"""Starts `match-server` and `edge-agent` without importing their modules each time.

More than half of the processor time of a short start are imports. So a launcher, a process without
threads, imports the modules once and forks a child for each start. The child calls `main` of the
program as its script does. It is a child of the tests, with its own arguments, environment, folder
and streams. Tests about starting, installing and importing use `subprocess`.
"""

import atexit
import ctypes
import gc
import json
import os
import socket
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

MATCH_SERVER = str(Path(sys.executable).with_name("match-server"))
EDGE_AGENT = str(Path(sys.executable).with_name("edge-agent"))

# The module with `main`, and the modules that it imports later. Without onnxruntime, which starts a
# thread, and prometheus_client, which reads the environment.
_MODULES = {
    "match-server": (
        "match_server.commands.cli",
        "match_server.commands.devices",
        "match_server.commands.keys",
        "match_server.commands.processes",
        "match_server.process.ingest",
        "match_server.process.serve",
    ),
    "edge-agent": ("edge_agent.cli.main", "edge_agent.supervisor", "requests"),
}
_READ_BEFORE_MAIN = ("LANG", "LC_", "LD_", "MALLOC_", "OMP_", "OPENBLAS_", "PYTHON")
_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
_SET_CHILD_SUBREAPER = 36  # of prctl
_MESSAGE_BYTES = 128 * 1024


class Launched(subprocess.Popen):
    """A process of a program: `Launched([MATCH_SERVER, "serve"])`."""

    def __init__(
        self, args, *, cwd=None, env=None, stdin=None, stdout=None, stderr=None, text=None
    ):
        super().__init__(
            args, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr, text=text
        )

    def _execute_child(self, args, *options):
        # Private, and the one place of Popen where a process is made; the rest stays as it is.
        [_, _, _, _, cwd, env, _, _, _, *options] = options
        pipes = [stdin, _, _, stdout, _, stderr] = options[:6]  # -1: that of the tests
        self.pid = _launcher_of(Path(args[0]).name).start(
            [str(word) for word in args],
            {**_ENVIRONMENT, **(os.environ if env is None else env)},
            str(cwd or Path.cwd()),
            [number if fd == -1 else fd for number, fd in enumerate((stdin, stdout, stderr))],
        )
        self._child_created = True
        self._close_pipe_fds(*pipes)


def run(command, *, check=True, **options):
    """Does what `subprocess.run` does; the output is text and captured."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Launched(command, **pipes, **options) as process:
        stdout, stderr = process.communicate()
    done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done


class _Launcher:
    """The tests' side of a launcher, which ends with the tests."""

    def __init__(self, program):
        self._environment = {**_ENVIRONMENT, **os.environ}
        self._lock = threading.Lock()
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"import {__name__} as m; m.launch({program!r})"],
                stdin=other,
                env=self._environment,
                cwd=Path(__file__).parents[2],
            )
        atexit.register(self._close)

    def start(self, words, environment, folder, streams):
        """Returns the id of the new process, a child of this one.

        Raises ValueError for a variable that was read before, when the modules were imported.
        """
        for name in environment.keys() | self._environment.keys():
            differs = environment.get(name) != self._environment.get(name)
            if differs and name.startswith(_READ_BEFORE_MAIN):
                raise ValueError(f"{name} is read before `main`: start the program by subprocess")
        request = json.dumps([words, environment, folder]).encode()
        with self._lock:
            _adopt_orphans(True)
            try:
                socket.send_fds(self._socket, [request], streams)
                answer = self._socket.recv(64)
            finally:
                _adopt_orphans(False)
        if not answer:
            raise RuntimeError(f"the launcher has ended with status {self._process.wait()}")
        return int(answer)

    def _close(self):
        self._socket.close()
        self._process.wait()


_launchers: dict[str, _Launcher] = {}


def _launcher_of(program):
    if program not in _launchers:
        _launchers[program] = _Launcher(program)
    return _launchers[program]


def _adopt_orphans(adopt):
    """Makes this process the parent of descendants whose own parents end, or not any more."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "the process cannot adopt orphans")


def launch(program):
    """Runs in the launcher: forks until the tests end. Each child calls `main`."""
    modules = [import_module(name) for name in _MODULES[program]]
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise RuntimeError("an imported module has started a thread, which a child would not have")
    control = socket.socket(fileno=os.dup(0))
    gc.freeze()  # the collector of a child would write to all pages, and so copy them
    while True:
        request, streams, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 3)
        if not request:
            return
        pid = _fork()
        if pid == 0:
            break
        control.send(str(pid).encode())
        for stream in streams:
            os.close(stream)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    control.detach()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.argv, environment, folder = json.loads(request)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.exit(modules[0].main())


def _fork():
    """Returns the id of a new orphan, which the tests adopt; returns 0 in it."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        pid = os.fork()
        if pid == 0:
            return 0
        os.write(writer, str(pid).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(parent, 0)
    with os.fdopen(reader, "rb") as pid:
        return int(pid.read())
