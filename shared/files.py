"""Files: written durably, read where settings name them, and errors of a disk in plain words."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from shared.errors import StorageFull, StorageReadOnly, Unavailable

FULL: Final = (
    "the disk is full: free some space, and writing goes on without a restart; searches go on "
    "meanwhile"
)
READ_ONLY: Final = (
    "the file system is read-only: check its disk and mount it writable again; searches go on "
    "meanwhile"
)
_LEAST_BYTES: Final = 65_536  # free on a disk on which something can still be stored
_FULL_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def readable(file: Path | None) -> Path | None:
    """Returns the file, for a validator. Raises ValueError if this user may not read it."""
    if file is not None and not os.access(file, os.R_OK):
        raise ValueError(f"there is no {file} that this user may read")
    return file


def is_full(error: OSError) -> bool:
    """Returns whether the error means that the disk or the user's quota is full."""
    return error.errno in _FULL_ERRORS


def unwritable(what: str, error: OSError) -> Unavailable:
    """Returns the error to raise if `what` ("a photo cannot be kept") failed with `error`."""
    if is_full(error):
        return StorageFull(f"{what}: {FULL}")
    if error.errno == errno.EROFS:
        return StorageReadOnly(f"{what}: {READ_ONLY}")
    return Unavailable(f"{what}: {error.strerror}")


def reserve(descriptor: int, size: int) -> None:
    """Allocates `size` bytes on the disk for a file, so that it can be mapped and written to.

    A write to a mapped page without a block on the disk ends the process with SIGBUS. Raises
    OSError (ENOSPC) if the disk is full; the file may have grown then.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        os.ftruncate(descriptor, size)


def no_storing(folder: Path, what: str) -> Unavailable | None:
    """Returns the error of `unwritable` if nothing can be stored in a folder, else None.

    It writes a file to find out: the system's own flags do not show every read-only disk.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            reserve(file.fileno(), _LEAST_BYTES)
    except OSError as error:
        return unwritable(what, error)
    return None


@contextmanager
def durable_file(
    path: Path, *, mode: int | None = None, suffix: str = ".new"
) -> Iterator[BinaryIO]:
    """Opens a new file for writing and reading; it becomes `path` when the block ends.

    Until then it stands beside `path` and has `suffix` after its name. The content is on the disk
    before the rename, and the rename is on the disk before this returns: after a crash `path` is
    the old file or the new one, never a part. If the block or the disk fails, the new file is
    deleted and `path` stays as it was. Without `mode` the umask sets the permissions. The folder
    must exist, and only one process at a time may write `path`. Raises OSError.
    """
    unfinished = path.with_name(path.name + suffix)
    unfinished.unlink(missing_ok=True)  # left by a process that crashed
    created = 0o666 if mode is None else mode
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, created)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)  # the umask may have removed permissions
            yield file
            file.flush()
            os.fsync(descriptor)
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
    sync_folder(path.parent)


def write_durably(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Replaces the file `path` by one with this content, as `durable_file` does."""
    with durable_file(path, mode=mode) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Makes new names, renames and deletions in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
