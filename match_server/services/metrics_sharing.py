"""Sharing the counts of several processes, so that each of them can show the sums.

One of several worker processes serves a request. So counts are kept in small files that all
processes map into memory (the multiprocess mode of prometheus-client). `share_metrics` selects that
mode before the library is first imported; `ingest` with the same data folder joins in. The files
are in memory (`/dev/shm`), where a full or read-only disk does not matter, else in the data folder.
"""

import hashlib
import logging
import mmap
import os
import stat
from contextlib import suppress
from pathlib import Path

from shared.files import reserve

log = logging.getLogger(__name__)

_MEMORY = Path("/dev/shm")  # noqa: S108  # a folder of its own in it, private to the user
_NAME = "muster-metrics-"
_ENTRY_BYTES = 64  # the most that a count takes besides its name
_SHARED = "PROMETHEUS_MULTIPROC_DIR"


def sharing() -> bool:
    """Whether this process shares its counts with others."""
    return _SHARED in os.environ


def share_metrics(data_dir: Path) -> None:
    """Let this process and its children share counts with the others of this data folder.

    Call this before the process makes its first `Metrics`. The first process that starts deletes
    the counts of processes that have ended: Prometheus handles counters that start again at 0.
    """
    if _SHARED not in os.environ:
        os.environ[_SHARED] = str(_folder_in_memory(data_dir) or data_dir / "metrics")
    folder = Path(os.environ[_SHARED])
    for used in {folder, *_unused_folders_in_memory(), data_dir / "metrics"}:
        _delete_ended(used)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        log.warning("Counts are not shared between processes", extra={"why": error.strerror})
        del os.environ[_SHARED]
        return
    _map_reserved_files()


def end_sharing() -> None:
    """Delete the counts of this process, which ends after its children, and an empty folder."""
    folder = os.environ.get(_SHARED)
    if folder is not None:
        _delete_ended(Path(folder), os.getpid())


def _folder_in_memory(data_dir: Path) -> Path | None:
    """The folder in memory for this data folder; None if it cannot be private to this user."""
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    folder = _MEMORY / f"{_NAME}{os.geteuid()}-{name}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077
    return folder if private and status.st_uid == os.geteuid() else None


def _unused_folders_in_memory() -> list[Path]:
    """The folders of this user in which no process counts: a server that was killed leaves one.

    A server that runs needs the counts of a worker that was killed: its sums would go back.
    """
    folders = _MEMORY.glob(f"{_NAME}{os.geteuid()}-*")
    return [
        folder
        for folder in folders
        if not folder.is_symlink() and all(map(_has_ended, folder.glob("*.db")))
    ]


def _delete_ended(folder: Path, ended: int | None = None) -> None:
    """Delete the counts of processes that have ended, and the folder if it is empty then."""
    with suppress(OSError):
        for file in folder.glob("*.db"):
            if _pid_of(file) == str(ended) or _has_ended(file):
                file.unlink(missing_ok=True)
        folder.rmdir()  # fails, as it should, while another process has files in it


def _has_ended(file: Path) -> bool:
    """Whether the process that counted in this file has ended."""
    pid = _pid_of(file)
    return not (pid.isdigit() and Path(f"/proc/{pid}").exists())


def _pid_of(file: Path) -> str:
    return file.stem.rpartition("_")[2]


def _map_reserved_files() -> None:
    """Let the library reserve disk space before it maps a file.

    It maps sparse files, so a count on a page without disk space would end the process with SIGBUS.
    Without space the counts of a process stay in its own memory, with a line in the log.
    """
    from prometheus_client import mmap_dict, values

    first_bytes: int = mmap_dict._INITIAL_MMAP_SIZE

    class Reserved(mmap_dict.MmapedDict):
        def __init__(self, filename: str, read_mode: bool = False) -> None:
            self._alone = not (read_mode or _reserved(filename, first_bytes))
            if not self._alone:
                super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]
                return
            descriptor = os.memfd_create("muster-metrics")
            try:
                super().__init__(f"/proc/self/fd/{descriptor}")  # type: ignore[no-untyped-call]
            finally:
                os.close(descriptor)

        def _init_value(self, key: str) -> None:
            needed = self._used + len(key.encode()) + _ENTRY_BYTES
            if not self._alone and needed > self._capacity:
                self._alone = not _reserved(self._fname, 2 * self._capacity)
                if self._alone:
                    self._move_into_private_memory()
            super()._init_value(key)  # type: ignore[no-untyped-call]

        def _move_into_private_memory(self) -> None:
            private = os.fdopen(os.memfd_create("muster-metrics"), "a+b")
            private.write(self._m[:])
            private.flush()
            self._f.close()
            self._f, self._m = private, mmap.mmap(private.fileno(), self._capacity)

    values.MmapedDict = Reserved  # type: ignore[attr-defined]


def _reserved(file: str, size: int) -> bool:
    """Reserve disk space for a file, and create the file if needed. Returns whether that worked."""
    try:
        Path(file).parent.mkdir(
            exist_ok=True, mode=0o700
        )  # a process that ended may have removed it
        with Path(file).open("ab") as opened:
            reserve(opened.fileno(), size)
    except OSError as error:
        log.warning("Counts of this process are not shared", extra={"why": error.strerror})
        with suppress(OSError):
            if not Path(file).stat().st_size:  # an empty file would break the reading of all files
                Path(file).unlink()
        return False
    return True


def forget_process(pid: int) -> None:
    """A worker has ended: its counters stay, its gauges are deleted."""
    if sharing():
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid)  # type: ignore[no-untyped-call]
