"""Photos and thumbnails: files below the data folder, named by the server, erased for sure."""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from match_server.database import Database
from match_server.tables import DoomedFile
from shared.errors import NotFound, Unavailable
from shared.ids import new_id

log = logging.getLogger(__name__)


class FileStore:
    """Files by names that the server makes itself: nothing that a client says is in a path."""

    def __init__(self, root: Path, database: Database) -> None:
        self._root = root
        self._database = database

    @contextlib.contextmanager
    def kept(
        self, kind: Literal["photos", "snapshots"], data: bytes | None
    ) -> Iterator[str | None]:
        """Write a file, safely on the disk, for the time of a transaction that names it.

        Yields its name (None for no data). When the transaction fails the file goes again.
        """
        if data is None:
            yield None
            return
        name = self._write(kind, data)
        try:
            yield name
        except BaseException:
            (self._root / name).unlink(missing_ok=True)
            raise

    def read(self, name: str) -> bytes:
        """The file's bytes. Raises NotFound when it is gone."""
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            raise NotFound("the file is no longer there") from None

    def doom(self, session: Session, names: Iterable[str | None]) -> int:
        """Note files for deletion in the transaction that forgets them; answers how many."""
        doomed = [DoomedFile(file=name) for name in set(names) if name is not None]
        session.add_all(doomed)
        return len(doomed)

    def sweep(self) -> int:
        """Delete the files that were noted, also by a process that died before it could."""
        with self._database.read() as session:
            names = list(session.scalars(select(DoomedFile.file)))
        if not names:
            return 0
        for name in names:
            (self._root / name).unlink(missing_ok=True)
        with self._database.write() as session:
            session.execute(delete(DoomedFile).where(DoomedFile.file.in_(names)))
        return len(names)

    def _write(self, kind: str, data: bytes) -> str:
        identifier = new_id()
        name = f"{kind}/{identifier[-2:]}/{identifier}"
        path = self._root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(_new_private_file(path), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _sync_folder(path.parent)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise Unavailable(f"a file cannot be kept: {error.strerror}") from error
        return name


def _new_private_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
