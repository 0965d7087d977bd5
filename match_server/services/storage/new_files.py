"""Writes many new files with few waits for the disk."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from shared.files import sync_folder

_THREADS: Final = 4


class NewFiles:
    """Writes lists of new files. Thread-safe.

    The files of a list are synchronised in parallel: a journal commits what several threads wait
    for together, so a list of 32 takes a tenth of the time.
    """

    def __init__(self) -> None:
        # Its threads start at the first list: after the fork of a worker.
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="file-sync")

    def write(self, files: Mapping[Path, bytes]) -> None:
        """Write files with new names into one folder; they are on the disk when this returns.

        A crash may leave a part of a file, so no row may name a file before this returns. Raises
        OSError; then none of the files is left.
        """
        created: list[Path] = []
        try:
            for path, data in files.items():
                with os.fdopen(_created(path), "wb") as file:
                    created.append(path)
                    file.write(data)
            self._sync(created)
            for folder in {path.parent for path in created}:
                sync_folder(folder)
        except BaseException:
            for path in created:
                with suppress(OSError):
                    path.unlink()
            raise

    def _sync(self, paths: Sequence[Path]) -> None:
        portions = [paths[start::_THREADS] for start in range(min(_THREADS, len(paths)))]
        others = [self._pool.submit(_sync_each, portion) for portion in portions[1:]]
        try:
            _sync_each(portions[0])
        finally:
            errors = [other.exception() for other in others]  # waits for them
        for error in errors:
            if error is not None:
                raise error


def _created(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        sync_folder(path.parent.parent)
        return os.open(path, flags, 0o600)


def _sync_each(paths: Sequence[Path]) -> None:
    """Wait until the content of each file is on the disk.

    Each file is opened again, so that few are open at once. The kernel reports an error of an
    earlier write to the first call that synchronises the file.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
