"""Ids of folders with photos or thumbnails, which are also in the name of each file.

A folder of one machine, or a folder that several machines share, gets an id with its first file. So
a missing file was deleted if its name has an id of this folder; otherwise another folder has it.
"""

import re
import socket
from pathlib import Path, PurePosixPath
from uuid import uuid4

_MARKER = ".folder-"
"""Each id is stored as an empty folder with this prefix and the id as its name."""
_HOST_LENGTH = 40


def id_in(name: str) -> str | None:
    """The folder's id in a file's name `kind/ab/UUID.ID`; None in names of earlier versions."""
    _, _, folder = PurePosixPath(name).name.partition(".")
    return folder or None


class FolderIds:
    """The ids of one folder: its own id, and the ids of files that were imported into it.

    Thread-safe. Two processes may make an id at the same time; then both are valid.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: frozenset[str] = frozenset()

    def own(self) -> str:
        """The id for new files, which is made if there is none. Raises OSError."""
        if not self._known and not self._read():
            self._add(_new_id())
        return min(self._known)

    def adopt(self, folder: str) -> None:
        """Let files with this id be files of this folder. Raises OSError."""
        if not self.has(folder):
            self._add(folder)

    def has(self, folder: str) -> bool:
        """Whether files with this id are files of this folder. Raises OSError."""
        return folder in self._known or folder in self._read()

    def _read(self) -> frozenset[str]:
        if self._folder.is_dir():
            names = [path.name for path in self._folder.iterdir()]
            ids = [name.removeprefix(_MARKER) for name in names if name.startswith(_MARKER)]
            self._known = frozenset(ids)
        return self._known

    def _add(self, folder: str) -> None:
        (self._folder / f"{_MARKER}{folder}").mkdir(parents=True, exist_ok=True, mode=0o700)
        self._read()


def _new_id() -> str:
    """A unique name that begins with the host name, for people."""
    host = re.sub("[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")[:_HOST_LENGTH]
    return f"{host or 'machine'}-{uuid4().hex[:8]}"
