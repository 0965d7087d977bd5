"""Photos and thumbnails: files in the data folder or a storage, named here, erased for sure."""

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
from match_server.services.encryption.vault import Cipher
from match_server.services.lookups import batches
from match_server.services.storage.backends import Folder, OpenPlace, Place, place_at
from match_server.services.storage.folder_id import id_in
from shared.errors import MusterError, Unavailable
from shared.ids import new_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that was written: its name, and the storage that it lies in."""

    name: str
    storage_number: int | None  # None: the data folder
    data_key: int | None  # that it is encrypted with; None: it is not


class FileStore:
    """Files by names that the server makes itself: nothing that a client says is in a path."""

    def __init__(self, root: Path, database: Database, open_place: OpenPlace = place_at) -> None:
        self._here = Folder(root)
        self._database = database
        self._open = open_place
        self._places: dict[str, Place] = {}  # by URI

    @contextlib.contextmanager
    def kept(
        self,
        kind: Literal["photos", "snapshots"],
        data: bytes | None,
        storage: Storage | None = None,
        *,
        cipher: Cipher,
    ) -> Iterator[Kept | None]:
        """Write a file, safe when this returns, for the time of a transaction that names it.

        `cipher` is of the collection that the file belongs to.

        Yields None for no data. When the transaction fails the file goes again, or is noted for
        deletion where its storage does not answer.
        """
        if data is None:
            yield None
            return
        place = self._place(None if storage is None else storage.uri)
        name = place.new_name(kind)
        file = Kept(name, None if storage is None else storage.number, cipher.data_key)
        place.write(name, cipher.seal_file(name, data))
        try:
            yield file
        except BaseException:
            try:
                place.delete(name)
            except MusterError:
                with contextlib.suppress(MusterError), self._database.write() as session:
                    self.doom(session, [(file.name, file.storage_number)])
            raise

    def discard(self, names: Iterable[str]) -> None:
        """Delete files of the data folder that `kept` has written and that the transaction, which
        is still open, does not name after all. That needs no note: they belong to nobody.
        """
        for name in names:
            self._here.delete(name)

    def read(self, name: str, storage: Storage | None = None, *, cipher: Cipher) -> bytes:
        """The file's bytes.

        Raises NotFound when it is gone, KeptElsewhere when another machine keeps it, Damaged when
        it is not as written.
        """
        stored = self._place(None if storage is None else storage.uri).read(name)
        return cipher.open_file(name, stored)

    def doom(self, session: Session, files: Iterable[tuple[str | None, int | None]]) -> int:
        """Note files (name, storage) for deletion in the transaction that forgets them.

        Answers how many they are; a name that is None is no file.
        """
        doomed = [
            DoomedFile(file=name, storage_number=storage_number)
            for name, storage_number in set(files)
            if name is not None
        ]
        session.add_all(doomed)
        return len(doomed)

    def doom_snapshots(self, session: Session, names: Iterable[str | None]) -> int:
        """The same for thumbnails, which lie in the data folder."""
        return self.doom(session, [(name, None) for name in names])

    def sweep(self) -> int:
        """Delete the files that were noted, also by a process that died before it could.

        Answers how many are still there because their storage does not answer, or another machine
        keeps them: they stay noted until a sweep of a server that reaches them.
        """
        with self._database.read() as session:
            doomed = session.execute(
                select(DoomedFile.file, Storage.uri).outerjoin(
                    Storage, Storage.number == DoomedFile.storage_number
                )
            ).all()
        gone: list[str] = []
        silent: set[str | None] = set()
        for name, uri in doomed:
            if uri in silent:
                continue
            try:
                deleted = self._place(uri).delete(name)
            except Unavailable as error:
                log.warning("a storage does not answer", extra={"why": error.message})
                silent.add(uri)
            except MusterError:  # gone with its bucket
                gone.append(name)
            else:
                # A database in the data folder has one machine: what is not here is nowhere.
                if deleted or self._database.is_sqlite:
                    gone.append(name)
        if gone:
            with self._database.write() as session:
                for some in batches(gone):
                    session.execute(delete(DoomedFile).where(DoomedFile.file.in_(some)))
        return len(doomed) - len(gone)

    def left(self, session: Session, names: Sequence[str]) -> Counter[str | None]:
        """How many of these files are noted and not deleted yet, by the folder that keeps them.

        None: a folder or storage that this machine reaches and that does not answer. Empty: a
        folder that nobody knows, of files of earlier versions.
        """
        counts: Counter[str | None] = Counter()
        for some in batches(names):
            rows = session.execute(
                select(DoomedFile.file, Storage.uri)
                .outerjoin(Storage, Storage.number == DoomedFile.storage_number)
                .where(DoomedFile.file.in_(some))
            )
            for name, uri in rows:
                counts[None if self._place(uri).reaches(name) else id_in(name) or ""] += 1
        return counts

    def check(self, uri: str) -> None:
        """Write, read and delete a file there. Raises NotFound or Unavailable when that fails."""
        place, name, data = self._place(uri), f"check/{new_id()}", b"may be deleted"
        place.write(name, data)
        if place.read(name) != data:
            raise Unavailable("the storage does not give back what was written")
        place.delete(name)

    def _place(self, uri: str | None) -> Place:
        if uri is None:
            return self._here
        return self._places.setdefault(uri, self._open(uri))
