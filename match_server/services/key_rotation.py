"""New keys for encrypted collections, while the server runs.

A new master key seals the few data keys anew, at once. New data keys mean that everything is
written again, row by row. A rotation that is interrupted, even by `kill -9`, goes on where it
stopped when it is asked for again: each row names its data key, and a retired data key stays until
no row names it.
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

_ROWS = 500  # sealed anew in one transaction: others who write wait some 20 ms
_FILES = 100  # read and written before what they replace is deleted

_TABLES = (Template, SpareTemplate, Image, Event)  # whose rows name their data key


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the data of one collection is."""

    collection: str
    done: int  # templates and files sealed with the new key in this run
    left: int  # still under a retired key
    damaged: int = 0  # that cannot be opened, or not from here: they stay, and so does their key


@dataclass(frozen=True, slots=True)
class MasterUse:
    """How many data keys and other secrets are sealed with a master key."""

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
        """The master keys that anything is sealed with."""
        counted = select(DataKey.master_id, func.count()).group_by(DataKey.master_id)
        with self._database.read() as session:
            keys: dict[str, int] = {row[0]: row[1] for row in session.execute(counted)}
            used = self._secrets.used(session)
        secrets = {one.master_id: one.secrets for one in used if one.master_id is not None}
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
        """Seal data keys and secrets with the current master key; how many were not yet."""
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

    def renew_data(self, tell: Callable[[Progress], None] = lambda _: None) -> list[Progress]:
        """Seal everything in encrypted collections with new data keys.

        Those collections that have retired keys from a run before are finished instead.
        """
        with self._database.read() as session:
            encrypted = select(Collection).where(Collection.encrypted).order_by(Collection.number)
            owners = session.scalars(encrypted).all()
        return [self._renew(owner, tell) for owner in owners]

    def _renew(self, owner: Collection, tell: Callable[[Progress], None]) -> Progress:
        self._retire(owner)
        done = damaged = 0
        for renewed, broken in self._batches(owner):
            done, damaged = done + renewed, damaged + broken
            tell(Progress(owner.name, done, self._left(owner), damaged))
        self._forget_unused(owner)
        return Progress(owner.name, done, self._left(owner), damaged)

    def _batches(self, owner: Collection) -> Iterator[tuple[int, int]]:
        """Seal batch by batch anew; yields how many were, and how many could not be opened."""
        for vectors in (Template, SpareTemplate):
            after = 0
            while found := self._renew_vectors(owner, vectors, after):
                after, renewed, damaged = found
                yield renewed, damaged
        for files in (Image, Event):
            last = ""
            while names := self._renew_files(owner, files, last):
                last, renewed, damaged = names
                yield renewed, damaged

    def _retire(self, owner: Collection) -> None:
        """A new data key, unless a retired one still waits for its end."""
        with self._database.write() as session:
            if _retired(session, owner):
                return
            now = self._clock.now()
            made = self._vault.add_key(session, owner, "seal", now)
            session.execute(
                update(DataKey)
                .where(
                    DataKey.collection_number == owner.number,
                    DataKey.purpose == "seal",
                    DataKey.number != made.number,
                )
                .values(retired_at=now)
            )

    def _renew_vectors(
        self, owner: Collection, table: type[Template] | type[SpareTemplate], after: int
    ) -> tuple[int, int, int] | None:
        """Templates after a number of theirs: the last number, how many, how many are damaged."""
        place = SpareTemplate.row if table is SpareTemplate else Template.number
        with self._database.write() as session:
            cipher = self._vault.cipher(session, owner)
            columns = select(place.label("place"), table.id, table.model_id, table.vector)
            stale = columns.where(table.data_key.in_(_retired(session, owner)), place > after)
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
        self, owner: Collection, table: type[Image] | type[Event], after: str
    ) -> tuple[str, int, int] | None:
        """The same for photos and thumbnails, by their rows' ids."""
        name = Event.snapshot if table is Event else Image.file
        with self._database.read() as session:
            cipher = self._vault.cipher(session, owner)
            where = table.data_key.in_(_retired(session, owner)), table.id > after
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
                pass  # nothing is left that the old key would be needed for
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
        """Let the row name a new file in place of `row.file`, unless it has gone meanwhile."""
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

    def _forget_unused(self, owner: Collection) -> None:
        """Destroy the retired keys that no row names any more."""
        with self._database.write() as session:
            for number in _retired(session, owner):
                used = [exists().where(table.data_key == number) for table in _TABLES]
                session.execute(delete(DataKey).where(DataKey.number == number, ~or_(*used)))
            now = self._clock.now()
            note(session, Note("data_keys_renewed", now, owner.name, None, owner.number))

    def _left(self, owner: Collection) -> int:
        with self._database.read() as session:
            retired = _retired(session, owner)
            return sum(
                count_of(session, select(func.count()).where(table.data_key.in_(retired)))
                for table in _TABLES
            )


def _retired(session: Session, owner: Collection) -> Sequence[int]:
    """The numbers of a collection's data keys that seal nothing any more."""
    return session.scalars(
        select(DataKey.number).where(
            DataKey.collection_number == owner.number, DataKey.retired_at.is_not(None)
        )
    ).all()
