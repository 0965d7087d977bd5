"""The files of a server: listing, reading and writing them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, null, select, update
from sqlalchemy.orm import InstrumentedAttribute

from match_server.db.tables import DoomedFile, Event, Image, Storage
from match_server.services.storage.backends import (
    Backend,
    Folder,
    OpenBackend,
    backend_of,
    checked_uri,
    require_inside,
)
from shared.errors import Conflict, Damaged, KeptElsewhere, MusterError, NotFound

_NAME = re.compile(r"(photos|snapshots)/[0-9a-f]{2}/[0-9a-f-]{36}(\.[a-z0-9-]{1,60})?")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that a row names."""

    name: str
    storage: str | None  # URI; None: the data folder


@dataclass(frozen=True, slots=True)
class _Column:
    """A column with names of files, and the column with their storage."""

    table: type[Image | Event]
    file: InstrumentedAttribute[str | None]
    storage_number: InstrumentedAttribute[int | None] | None


_COLUMNS = (_Column(Image, Image.file, Image.storage_number), _Column(Event, Event.snapshot, None))


def files_named(connection: Connection) -> Iterator[NamedFile]:
    """All files that rows name, read in portions of a thousand rows."""
    streaming = connection.execution_options(yield_per=1000)
    storages: dict[int, str] = {row[0]: row[1] for row in connection.execute(_STORAGES)}
    for column in _COLUMNS:
        number = null() if column.storage_number is None else column.storage_number
        for name, storage in streaming.execute(
            select(column.file, number).where(column.file.is_not(None))
        ):
            if name is not None:
                yield NamedFile(name, None if storage is None else storages[storage])


_STORAGES = select(Storage.number, Storage.uri)


def is_named(connection: Connection, file: NamedFile) -> bool:
    """Whether a row names the file now."""
    return any(
        connection.execute(select(column.file).where(column.file == file.name).limit(1)).first()
        for column in _COLUMNS
    )


def forget(connection: Connection, name: str) -> None:
    """Set the name of a missing file to NULL in all rows."""
    for column in _COLUMNS:
        named = update(column.table).where(column.file == name)
        connection.execute(named.values({column.file: None}))


def require_names(connection: Connection) -> None:
    """Raises Damaged if a row names a file outside of its folder."""
    streaming = connection.execution_options(yield_per=1000)
    for file in (*(column.file for column in _COLUMNS), DoomedFile.file):
        for (name,) in streaming.execute(select(file).where(file.is_not(None))):
            require_inside(str(name))


def storages_named(connection: Connection) -> set[str]:
    """The URIs of all storages."""
    return {uri for _, uri in connection.execute(_STORAGES)}


class Files:
    """Reads and writes files in the data folder and in storages."""

    def __init__(self, data_dir: Path, open_backend: OpenBackend = backend_of) -> None:
        self._data_folder = Folder(data_dir)
        self._open = open_backend
        self._opened: dict[str, Backend] = {}
        self._written: list[NamedFile] = []

    def read(self, file: NamedFile) -> bytes:
        """Raises NotFound if the file was deleted, Unavailable if its storage is not available."""
        return self._backend(file).read(file.name)

    def put(self, file: NamedFile, data: bytes) -> None:
        """Write a file, unless it exists with the same content.

        Raises Damaged for an invalid name, Conflict if a storage has another file of that name.
        A file that an interrupted import left is replaced: in a storage one that is the beginning
        of `data`, and in the data folder, whose database is empty, any file.
        """
        if not _NAME.fullmatch(file.name):
            raise Damaged("the file holds a photo with an invalid name")
        backend = self._backend(file)
        try:
            existing = backend.read(file.name)
        except (NotFound, KeptElsewhere):
            pass
        else:
            if existing == data:
                return
            if file.storage is not None and not data.startswith(existing):
                raise Conflict(f"there is another {file.name} in {file.storage} already")
            backend.delete(file.name)
        backend.write(file.name, data)
        self._written.append(file)

    def take_back(self) -> None:
        """Delete the files that were `put`, as far as possible."""
        for file in self._written:
            try:
                self._backend(file).delete(file.name)
            except MusterError:  # the others are deleted nevertheless
                continue
        self._written.clear()

    def _backend(self, file: NamedFile) -> Backend:
        if file.storage is None:
            return self._data_folder
        if file.storage not in self._opened:
            self._opened[file.storage] = self._open(checked_uri(file.storage))
        return self._opened[file.storage]
