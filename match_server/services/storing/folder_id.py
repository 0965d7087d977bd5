"""Whose a folder of photos or thumbnails is: an id in the folder, and in the name of each file.

A folder of one machine, or one that several machines share, has one id, made when the first file
is written. A file that is not there was deleted if its name bears an id of this folder; otherwise
another folder keeps it.
"""

import os
import re
import socket
import threading
from pathlib import Path, PurePosixPath
from uuid import uuid4

_MARKER = ".folder"
"""One id a line: the folder's own, then those of imported files."""
_HOST_LENGTH = 40


def id_in(name: str) -> str | None:
    """The folder's id in a file's name `kind/ab/UUID.ID`; None in names of earlier versions."""
    _, _, folder = PurePosixPath(name).name.partition(".")
    return folder or None


class FolderIds:
    """The ids of one folder. Thread-safe; processes that write the first file at once agree."""

    def __init__(self, folder: Path) -> None:
        self._marker = folder / _MARKER
        self._lock = threading.Lock()
        self._known: tuple[str, ...] = ()

    def own(self) -> str:
        """The id of files that are written now; made if there is none. Raises OSError."""
        if not (ids := self.all()):
            self._marker.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._append(_new_id(), first=True)
            ids = self.all()
        return ids[0]

    def adopt(self, folder: str) -> None:
        """Count files with this id as of this folder. Raises OSError."""
        self.own()
        if folder not in self.all():
            self._append(folder)

    def all(self) -> tuple[str, ...]:
        """The ids, read again while there are none. Raises OSError."""
        with self._lock:
            if not self._known:
                self._known = self._read()
            return self._known

    def _read(self) -> tuple[str, ...]:
        try:
            return tuple(self._marker.read_text(encoding="ascii").split())
        except FileNotFoundError:
            return ()

    def _append(self, folder: str, *, first: bool = False) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_EXCL if first else 0)
        try:
            descriptor = os.open(self._marker, flags, 0o600)
        except FileExistsError:  # another process was quicker
            return
        try:
            os.write(descriptor, f"{folder}\n".encode("ascii"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with self._lock:
            self._known = ()


def _new_id() -> str:
    """A name that tells people which machine it is, and is never used twice."""
    host = re.sub("[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")[:_HOST_LENGTH]
    return f"{host or 'machine'}-{uuid4().hex[:8]}"
