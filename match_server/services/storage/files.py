"""Photos and thumbnails: files in the data folder or a storage, deleted reliably."""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import DoomedFile, Storage
from match_server.folder_id import id_in
from match_server.services.encryption.vault import Cipher
from match_server.services.lookups import batches
from match_server.services.storage.backends import Backend, Folder, OpenBackend, backend_of
from shared.errors import MusterError, Unavailable
from shared.ids import new_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that was written: its name and its storage."""

    name: str
    storage_number: int | None  # None: the data folder
    data_key: int | None  # that encrypts it; None: it is not encrypted


class FileStore:
    """Reads, writes and deletes files. The server makes all names: no path has text of a client."""

    def __init__(
        self, root: Path, database: Database, open_backend: OpenBackend = backend_of
    ) -> None:
        self._data_folder = Folder(root)
        self._database = database
        self._open = open_backend
        self._backends: dict[str, Backend] = {}  # by URI

    @contextlib.contextmanager
    def kept(
        self,
        kind: Literal["photos", "snapshots"],
        data: bytes | None,
        storage: Storage | None = None,
        *,
        cipher: Cipher,
    ) -> Iterator[Kept | None]:
        """Write a file durably; inside this context a transaction names it in a row.

        `cipher` is of the collection of the file. Yields None without data. If the transaction
        fails, the file is deleted, or noted for deletion if its storage is not available.
        """
        if data is None:
            yield None
            return
        backend = self._backend(None if storage is None else storage.uri)
        name = backend.new_name(kind)
        file = Kept(name, None if storage is None else storage.number, cipher.data_key)
        backend.write(name, cipher.seal_file(name, data))
        with self._taken_back_on_error(backend, [file]):
            yield file

    @contextlib.contextmanager
    def kept_thumbnails(self, thumbnails: Sequence[tuple[bytes, Cipher]]) -> Iterator[list[Kept]]:
        """As `kept`, for the thumbnails of a list of probes, which wait for the disk together."""
        folder = self._data_folder
        if not thumbnails:
            yield []
            return
        names = folder.new_names("snapshots", len(thumbnails))
        files = [
            Kept(name, None, cipher.data_key)
            for name, (_, cipher) in zip(names, thumbnails, strict=True)
        ]
        folder.write_new(
            {
                name: cipher.seal_file(name, data)
                for name, (data, cipher) in zip(names, thumbnails, strict=True)
            }
        )
        with self._taken_back_on_error(folder, files):
            yield files

    @contextlib.contextmanager
    def _taken_back_on_error(self, backend: Backend, files: Sequence[Kept]) -> Iterator[None]:
        """Delete these files, or note them for deletion, if the transaction fails."""
        try:
            yield
        except BaseException:
            for file in files:
                try:
                    backend.delete(file.name)
                except MusterError:
                    with contextlib.suppress(MusterError), self._database.write() as session:
                        self.doom(session, [(file.name, file.storage_number)])
            raise

    def discard(self, names: Iterable[str]) -> None:
        """Delete files of the data folder that `kept` wrote and the open transaction does not name.

        They need no note for deletion, because no row names them.
        """
        for name in names:
            self._data_folder.delete(name)

    def read(self, name: str, storage: Storage | None = None, *, cipher: Cipher) -> bytes:
        """The content of a file.

        Raises NotFound if it was deleted, KeptElsewhere if another machine has it, Damaged if it
        was changed.
        """
        stored = self._backend(None if storage is None else storage.uri).read(name)
        return cipher.open_file(name, stored)

    def doom(self, session: Session, files: Iterable[tuple[str | None, int | None]]) -> int:
        """Note files (name, storage) for deletion, in the transaction that deletes their rows.

        Returns their number; a name that is None is no file.
        """
        doomed = [
            DoomedFile(file=name, storage_number=storage_number)
            for name, storage_number in set(files)
            if name is not None
        ]
        session.add_all(doomed)
        return len(doomed)

    def doom_snapshots(self, session: Session, names: Iterable[str | None]) -> int:
        """As `doom`, for thumbnails, which are in the data folder."""
        return self.doom(session, [(name, None) for name in names])

    def sweep(self) -> int:
        """Delete the files that were noted for deletion, also by other processes.

        Returns how many are left because their storage is not available, or another machine has
        them: they stay noted until a server that reaches them deletes them.
        """
        with self._database.read() as session:
            doomed = session.execute(
                select(DoomedFile.file, Storage.uri).outerjoin(
                    Storage, Storage.number == DoomedFile.storage_number
                )
            ).all()
        deleted: list[str] = []
        unavailable: set[str | None] = set()
        for name, uri in doomed:
            if uri in unavailable:
                continue
            try:
                is_deleted = self._backend(uri).delete(name)
            except Unavailable as error:
                log.warning("A storage is not available", extra={"why": error.message})
                unavailable.add(uri)
            except MusterError:  # its bucket was deleted
                deleted.append(name)
            else:
                # SQLite is used by one machine only, so no other machine has the file.
                if is_deleted or self._database.is_sqlite:
                    deleted.append(name)
        if deleted:
            with self._database.write() as session:
                for batch in batches(deleted):
                    session.execute(delete(DoomedFile).where(DoomedFile.file.in_(batch)))
        return len(doomed) - len(deleted)

    def left(self, session: Session, names: Sequence[str]) -> Counter[str | None]:
        """How many of these files are not deleted yet, by the id of their folder.

        None: a folder or storage of this machine that is not available. Empty: an unknown folder,
        for files of earlier versions.
        """
        counts: Counter[str | None] = Counter()
        for batch in batches(names):
            rows = session.execute(
                select(DoomedFile.file, Storage.uri)
                .outerjoin(Storage, Storage.number == DoomedFile.storage_number)
                .where(DoomedFile.file.in_(batch))
            )
            for name, uri in rows:
                counts[None if self._backend(uri).reaches(name) else id_in(name) or ""] += 1
        return counts

    def check(self, uri: str) -> None:
        """Write, read and delete a file in a storage. Raises NotFound or Unavailable."""
        backend, name, data = self._backend(uri), f"check/{new_id()}", b"may be deleted"
        backend.write(name, data)
        if backend.read(name) != data:
            raise Unavailable("the storage returned other bytes than were written")
        backend.delete(name)

    def _backend(self, uri: str | None) -> Backend:
        if uri is None:
            return self._data_folder
        return self._backends.setdefault(uri, self._open(uri))
