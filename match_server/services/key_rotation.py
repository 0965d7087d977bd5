"""Rotation of the keys of encrypted collections, while the server runs.

With a new master key only the few data keys are encrypted again. With new data keys all templates
and files are written again. An interrupted rotation, even by `kill -9`, continues where it stopped
when it is started again: each row names its data key, and a retired data key stays until no row
names it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue
from sqlalchemy import bindparam, delete, exists, func, literal, or_, select, update
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import (
    Collection,
    DataKey,
    Event,
    Image,
    SpareTemplate,
    Storage,
    Template,
)
from match_server.services.audit.chain import Note, note
from match_server.services.encryption.secrets import Secrets
from match_server.services.encryption.vault import Cipher, Vault
from match_server.services.lookups import count_of
from match_server.services.storage.files import FileStore
from shared.clock import Clock
from shared.errors import Damaged, KeptElsewhere, NotFound

_ROWS = 500  # encrypted again in one transaction: other writes wait some 20 ms
_FILES = 100  # written before the files that they replace are deleted

_TABLES = (Template, SpareTemplate, Image, Event)  # with a column `data_key`


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of one collection."""

    collection: str
    done: int  # templates and files encrypted with the new key in this run
    left: int  # still under a retired key
    damaged: int = 0  # cannot be decrypted, or not on this machine: they stay, with their key


@dataclass(frozen=True, slots=True)
class MasterUse:
    """The number of data keys and other secrets that a master key encrypts."""

    master_id: str
    data_keys: int
    secrets: int


class Rotation:
    """Changes the keys of encrypted collections."""

    def __init__(
        self, database: Database, vault: Vault, secrets: Secrets, files: FileStore, clock: Clock
    ) -> None:
        self._database = database
        self._vault = vault
        self._secrets = secrets
        self._files = files
        self._clock = clock

    def masters(self) -> list[MasterUse]:
        """The master keys in use."""
        counted = select(DataKey.master_id, func.count()).group_by(DataKey.master_id)
        with self._database.read() as session:
            keys: dict[str, int] = {row[0]: row[1] for row in session.execute(counted)}
            used = self._secrets.used(session)
        secrets = {use.master_id: use.secrets for use in used if use.master_id is not None}
        return [
            MasterUse(master_id, keys.get(master_id, 0), secrets.get(master_id, 0))
            for master_id in sorted(keys.keys() | secrets.keys())
        ]

    def unfinished(self) -> bool:
        """Whether data is still under retired keys."""
        retired = select(func.count()).where(DataKey.retired_at.is_not(None))
        with self._database.read() as session:
            return count_of(session, retired) > 0

    def rewrap(self) -> MasterUse:
        """Encrypt data keys and secrets with the current master key. Returns how many changed."""
        with self._database.write() as session:
            count = self._vault.rewrap(session)
            secrets = self._secrets.reseal(session)
            master = self._vault.master().current.id.hex()
            details: dict[str, JsonValue] = {
                "master": master,
                "data_keys": count,
                "secrets": secrets,
            }
            note(session, Note("keys_rotated", self._clock.now(), details=details))
            return MasterUse(master, count, secrets)

    def renew_data(self, progress: Callable[[Progress], None] = lambda _: None) -> list[Progress]:
        """Encrypt all data of encrypted collections with new data keys.

        A collection with retired keys of an earlier run is only completed.
        """
        with self._database.read() as session:
            encrypted = select(Collection).where(Collection.encrypted).order_by(Collection.number)
            collections = session.scalars(encrypted).all()
        return [self._renew(collection, progress) for collection in collections]

    def _renew(self, collection: Collection, progress: Callable[[Progress], None]) -> Progress:
        self._retire(collection)
        done = damaged = 0
        for renewed, broken in self._batches(collection):
            done, damaged = done + renewed, damaged + broken
            progress(Progress(collection.name, done, self._left(collection), damaged))
        self._forget_unused(collection)
        return Progress(collection.name, done, self._left(collection), damaged)

    def _batches(self, collection: Collection) -> Iterator[tuple[int, int]]:
        """Encrypt batches again. Yields the numbers of changed and of damaged items of each."""
        for vectors in (Template, SpareTemplate):
            after = 0
            while batch := self._renew_vectors(collection, vectors, after):
                after, renewed, damaged = batch
                yield renewed, damaged
        for files in (Image, Event):
            last = ""
            while renewals := self._renew_files(collection, files, last):
                last, renewed, damaged = renewals
                yield renewed, damaged

    def _retire(self, collection: Collection) -> None:
        """Make a new data key, unless there is a retired key of an earlier run."""
        with self._database.write() as session:
            if _retired(session, collection):
                return
            now = self._clock.now()
            made = self._vault.add_key(session, collection, "seal", now)
            session.execute(
                update(DataKey)
                .where(
                    DataKey.collection_number == collection.number,
                    DataKey.purpose == "seal",
                    DataKey.number != made.number,
                )
                .values(retired_at=now)
            )

    def _renew_vectors(
        self, collection: Collection, table: type[Template] | type[SpareTemplate], after: int
    ) -> tuple[int, int, int] | None:
        """Encrypt a batch of templates. Returns the last number, and counts of done and damaged."""
        place = SpareTemplate.row if table is SpareTemplate else Template.number
        with self._database.write() as session:
            cipher = self._vault.cipher(session, collection)
            columns = select(place.label("place"), table.id, table.model_id, table.vector)
            stale = columns.where(table.data_key.in_(_retired(session, collection)), place > after)
            rows = session.execute(stale.order_by(place).limit(_ROWS).with_for_update()).all()
            if not rows:
                return None
            renewed = []
            for row in rows:
                try:
                    (vector,) = cipher.open_vectors(row.model_id, [(row.id, row.vector)])
                except Damaged:
                    continue
                sealed = cipher.seal_vector(row.id, row.model_id, vector)
                renewed.append({"place_": row.place, "sealed": sealed})
            changed = (
                update(table)
                .where(place == bindparam("place_"))
                .values(vector=bindparam("sealed"), data_key=cipher.data_key)
            )
            if renewed:
                session.connection().execute(changed, renewed)
            return rows[-1].place, len(renewed), len(rows) - len(renewed)

    def _renew_files(
        self, collection: Collection, table: type[Image] | type[Event], after: str
    ) -> tuple[str, int, int] | None:
        """As `_renew_vectors`, for photos and thumbnails, by the ids of their rows."""
        name = Event.snapshot if table is Event else Image.file
        with self._database.read() as session:
            cipher = self._vault.cipher(session, collection)
            where = table.data_key.in_(_retired(session, collection)), table.id > after
            storage = Image.storage_number if table is Image else literal(None)
            columns = select(table.id, name.label("file"), storage.label("storage"))
            rows = session.execute(columns.where(*where).order_by(table.id).limit(_FILES)).all()
            storages = {one.number: one for one in session.scalars(select(Storage))}
        if not rows:
            return None
        damaged = 0
        for row in rows:
            data = None
            try:
                if row.file is not None:
                    data = self._files.read(row.file, storages.get(row.storage), cipher=cipher)
            except (Damaged, KeptElsewhere):
                damaged += 1
                continue
            except NotFound:
                pass  # nothing needs the old key
            self._replace(table, row, data, storages.get(row.storage), cipher)
        self._files.sweep()
        return rows[-1].id, len(rows) - damaged, damaged

    def _replace(
        self,
        table: type[Image] | type[Event],
        row: Any,
        data: bytes | None,
        storage: Storage | None,
        cipher: Cipher,
    ) -> None:
        """Let the row name a new file instead of `row.file`, unless it was deleted meanwhile."""
        column = Event.snapshot if table is Event else Image.file
        kind: Literal["photos", "snapshots"] = "snapshots" if table is Event else "photos"
        with (
            self._files.kept(kind, data, storage, cipher=cipher) as kept,
            self._database.write() as session,
        ):
            new = row.file if kept is None else kept.name
            changed = session.execute(
                update(table)
                .where(table.id == row.id, column.is_not_distinct_from(row.file))
                .values({column.key: new, "data_key": cipher.data_key})
                .returning(table.id)
            ).all()
            if kept is not None:
                unused = row.file if changed else kept.name
                self._files.doom(session, [(unused, kept.storage_number)])

    def _forget_unused(self, collection: Collection) -> None:
        """Delete the retired keys that no row names."""
        with self._database.write() as session:
            for number in _retired(session, collection):
                used = [exists().where(table.data_key == number) for table in _TABLES]
                session.execute(delete(DataKey).where(DataKey.number == number, ~or_(*used)))
            now = self._clock.now()
            note(session, Note("data_keys_renewed", now, collection.name, None, collection.number))

    def _left(self, collection: Collection) -> int:
        with self._database.read() as session:
            retired = _retired(session, collection)
            return sum(
                count_of(session, select(func.count()).where(table.data_key.in_(retired)))
                for table in _TABLES
            )


def _retired(session: Session, collection: Collection) -> Sequence[int]:
    """The numbers of the retired data keys of a collection."""
    return session.scalars(
        select(DataKey.number).where(
            DataKey.collection_number == collection.number, DataKey.retired_at.is_not(None)
        )
    ).all()
