"""Files that settings name, and what it means when one cannot be written."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Final

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
    """The file, for a validator. ValueError where this user may not read it."""
    if file is not None and not os.access(file, os.R_OK):
        raise ValueError(f"there is no {file} that this user may read")
    return file


def is_full(error: OSError) -> bool:
    """Whether a disk, or somebody's share of it, has no room left."""
    return error.errno in _FULL_ERRORS


def unwritable(what: str, error: OSError) -> Unavailable:
    """The error to raise where `what` ("a photo cannot be kept") failed with `error`."""
    if is_full(error):
        return StorageFull(f"{what}: {FULL}")
    if error.errno == errno.EROFS:
        return StorageReadOnly(f"{what}: {READ_ONLY}")
    return Unavailable(f"{what}: {error.strerror}")


def reserve(descriptor: int, size: int) -> None:
    """Give a file `size` bytes that are really there, so that it can be mapped and written to.

    A write to a mapped page that the disk has no block for ends the process with SIGBUS. Raises
    OSError (ENOSPC) instead; the file may have grown by then.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        os.ftruncate(descriptor, size)


def no_storing(folder: Path, what: str) -> Unavailable | None:
    """Why nothing can be stored in a folder (as `unwritable` says it); None: it can.

    It is tried: what the system says of a file system that became read-only by itself differs.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            reserve(file.fileno(), _LEAST_BYTES)
    except OSError as error:
        return unwritable(what, error)
    return None
