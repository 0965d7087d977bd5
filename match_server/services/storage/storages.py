"""Storages of photos: created only if a file can be written there, removed only when empty."""

from collections.abc import Sequence
from functools import partial

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import DoomedFile, Image, Storage
from match_server.schemas.base import Page, Paging
from match_server.schemas.storages import (
    StorageCreate,
    StorageRemoved,
    StorageView,
    StorageWritten,
)
from match_server.services.change_feed import record
from match_server.services.lookups import count_of, storage_named
from match_server.services.paging import page_of
from match_server.services.storage.backends import checked_uri
from match_server.services.storage.files import FileStore
from shared.clock import Clock
from shared.errors import Conflict, MusterError, Unusable

_OF_NO_COLLECTION = 0


class Storages:
    """Creating, listing and removing storages."""

    def __init__(self, database: Database, files: FileStore, clock: Clock) -> None:
        self._database = database
        self._files = files
        self._clock = clock

    def create(self, request: StorageCreate) -> StorageWritten:
        """Create a storage. Raises Unusable if a file cannot be written, read and deleted there."""
        uri = checked_uri(request.uri)
        try:
            self._files.check(uri)
        except MusterError as error:
            raise Unusable(
                f"no photo can be stored at {uri}: {error.message}", reasons=["storage"]
            ) from error
        now = self._clock.now()
        with self._database.write() as session:
            if count_of(session, select(func.count()).where(Storage.name == request.name)):
                raise Conflict(f"there is already a storage {request.name!r}")
            row = Storage(name=request.name, uri=uri, created_at=now)
            session.add(row)
            seq = record(session, _OF_NO_COLLECTION, "storage_created", row.name, now)
            return StorageWritten(
                seq=seq, name=row.name, uri=row.uri, images=0, created_at=row.created_at
            )

    def page(self, paging: Paging) -> Page[StorageView]:
        with self._database.read() as session:
            views = partial(_views, session)
            return page_of(session, select(Storage), paging, Storage.name, views=views)

    def remove(self, name: str) -> StorageRemoved:
        """Remove a storage. Raises Conflict while it holds photos, or files to be deleted."""
        self._files.sweep()
        with self._database.write() as session:
            row = storage_named(session, name)
            photos = _count(session, Image, row)
            if photos:
                raise Conflict(
                    f"{photos} photos lie in the storage {name!r}: delete those images first",
                    images=photos,
                )
            if _count(session, DoomedFile, row):
                raise Conflict(
                    f"erased photos could not be deleted from the storage {name!r} yet, because "
                    "it does not answer, or another machine keeps them"
                )
            session.execute(delete(Storage).where(Storage.number == row.number))
            now = self._clock.now()
            seq = record(session, _OF_NO_COLLECTION, "storage_removed", name, now)
            return StorageRemoved(seq=seq, name=name)


def _count(session: Session, table: type[Image] | type[DoomedFile], storage: Storage) -> int:
    counted = select(func.count()).select_from(table)
    return count_of(session, counted.where(table.storage_number == storage.number))


def _views(session: Session, rows: Sequence[Storage]) -> list[StorageView]:
    counted = (
        select(Image.storage_number, func.count())
        .where(Image.storage_number.in_([row.number for row in rows]))
        .group_by(Image.storage_number)
    )
    images = {row[0]: row[1] for row in session.execute(counted)}
    return [
        StorageView(
            name=row.name,
            uri=row.uri,
            images=images.get(row.number, 0),
            created_at=row.created_at,
        )
        for row in rows
    ]
