"""The kept files of a server: which there are, and taking them out and putting them back."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, null, select, update
from sqlalchemy.orm import InstrumentedAttribute

from match_server.db.tables import DoomedFile, Event, Image, Storage
from match_server.services.storage.backends import (
    Folder,
    OpenPlace,
    Place,
    checked_uri,
    place_at,
    require_inside,
)
from shared.errors import Conflict, Damaged, KeptElsewhere, MusterError, NotFound

_NAME = re.compile(r"(photos|snapshots)/[0-9a-f]{2}/[0-9a-f-]{36}(\.[a-z0-9-]{1,60})?")


@dataclass(frozen=True, slots=True)
class Named:
    """A file that a row names."""

    name: str
    storage: str | None  # URI; None: the data folder


@dataclass(frozen=True, slots=True)
class _Column:
    """A column that names files, and the one that says in which storage they lie."""

    table: type[Image | Event]
    file: InstrumentedAttribute[str | None]
    storage_number: InstrumentedAttribute[int | None] | None


_COLUMNS = (_Column(Image, Image.file, Image.storage_number), _Column(Event, Event.snapshot, None))


def files_named(connection: Connection) -> Iterator[Named]:
    """Every file that a row names, a thousand rows at a time."""
    streaming = connection.execution_options(yield_per=1000)
    storages: dict[int, str] = {row[0]: row[1] for row in connection.execute(_STORAGES)}
    for column in _COLUMNS:
        number = null() if column.storage_number is None else column.storage_number
        for name, storage in streaming.execute(
            select(column.file, number).where(column.file.is_not(None))
        ):
            if name is not None:
                yield Named(name, None if storage is None else storages[storage])


_STORAGES = select(Storage.number, Storage.uri)


def is_named(connection: Connection, file: Named) -> bool:
    """Whether a row names the file now."""
    return any(
        connection.execute(select(column.file).where(column.file == file.name).limit(1)).first()
        for column in _COLUMNS
    )


def forget(connection: Connection, name: str) -> None:
    """Let no row name a file that is not there."""
    for column in _COLUMNS:
        named = update(column.table).where(column.file == name)
        connection.execute(named.values({column.file: None}))


def require_names(connection: Connection) -> None:
    """Raises Damaged where a row names a file that would be outside of its folder."""
    streaming = connection.execution_options(yield_per=1000)
    for column in (*(one.file for one in _COLUMNS), DoomedFile.file):
        for (name,) in streaming.execute(select(column).where(column.is_not(None))):
            require_inside(str(name))


def storages_named(connection: Connection) -> set[str]:
    """URIs of all storages."""
    return {uri for _, uri in connection.execute(_STORAGES)}


class Places:
    """Files by name, in the data folder and in storages."""

    def __init__(self, data_dir: Path, open_place: OpenPlace = place_at) -> None:
        self._here = Folder(data_dir)
        self._open = open_place
        self._opened: dict[str, Place] = {}
        self._written: list[Named] = []

    def read(self, file: Named) -> bytes:
        """Raises NotFound when it is gone, Unavailable when its storage does not answer."""
        return self._place(file).read(file.name)

    def put(self, file: Named, data: bytes) -> None:
        """Write a file, or find it there as it is.

        Raises Damaged for a name that no server gives; Conflict where a storage has another file
        of that name. The beginning of the file, and in the data folder, whose database is empty,
        any file of that name, is what an import that was killed has left, and is replaced.
        """
        if not _NAME.fullmatch(file.name):
            raise Damaged("the file holds a photo under a name that no server gives")
        place = self._place(file)
        try:
            there = place.read(file.name)
        except (NotFound, KeptElsewhere):
            pass
        else:
            if there == data:
                return
            if file.storage is not None and not data.startswith(there):
                raise Conflict(f"there is another {file.name} in {file.storage} already")
            place.delete(file.name)
        place.write(file.name, data)
        self._written.append(file)

    def take_back(self) -> None:
        """Delete what was `put`, as far as that goes."""
        for file in self._written:
            try:
                self._place(file).delete(file.name)
            except MusterError:  # the others should go nevertheless
                continue
        self._written.clear()

    def _place(self, file: Named) -> Place:
        if file.storage is None:
            return self._here
        if file.storage not in self._opened:
            self._opened[file.storage] = self._open(checked_uri(file.storage))
        return self._opened[file.storage]
