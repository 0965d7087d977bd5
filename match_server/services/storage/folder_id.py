"""Whose a folder of photos or thumbnails is: an id in the folder, and in the name of each file.

A folder of one machine, or one that several machines share, has one id, made when the first file
is written. A file that is not there was deleted if its name bears an id of this folder; otherwise
another folder keeps it.
"""

import re
import socket
from pathlib import Path, PurePosixPath
from uuid import uuid4

_MARKER = ".folder-"
"""An empty folder of this name and an id stands for each id."""
_HOST_LENGTH = 40


def id_in(name: str) -> str | None:
    """The folder's id in a file's name `kind/ab/UUID.ID`; None in names of earlier versions."""
    _, _, folder = PurePosixPath(name).name.partition(".")
    return folder or None


class FolderIds:
    """The ids of one folder: one of its own, and those of files that were imported into it.

    Thread-safe. Two processes that make an id at once leave two, which both count.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: frozenset[str] = frozenset()

    def own(self) -> str:
        """The id of files that are written now; made if there is none. Raises OSError."""
        if not self._known and not self._read():
            self._add(_new_id())
        return min(self._known)

    def adopt(self, folder: str) -> None:
        """Count files with this id as of this folder. Raises OSError."""
        if not self.has(folder):
            self._add(folder)

    def has(self, folder: str) -> bool:
        """Whether files with this id are of this folder. Raises OSError."""
        return folder in self._known or folder in self._read()

    def _read(self) -> frozenset[str]:
        if self._folder.is_dir():
            names = [one.name for one in self._folder.iterdir()]
            ids = [name.removeprefix(_MARKER) for name in names if name.startswith(_MARKER)]
            self._known = frozenset(ids)
        return self._known

    def _add(self, folder: str) -> None:
        (self._folder / f"{_MARKER}{folder}").mkdir(parents=True, exist_ok=True, mode=0o700)
        self._read()


def _new_id() -> str:
    """A name that tells people which machine it is, and is never used twice."""
    host = re.sub("[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")[:_HOST_LENGTH]
    return f"{host or 'machine'}-{uuid4().hex[:8]}"
