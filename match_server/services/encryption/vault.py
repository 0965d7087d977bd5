"""What encrypted collections keep, sealed on its way to the disk and opened on its way back.

Each collection has data keys of its own, which rest in the database sealed with the master key.
A deleted collection takes its data keys along, so that no copy of its templates and photos that is
left anywhere (a backup, a storage that did not answer) can be read without a backup of those rows.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from match_server.db.database import Database, Reader
from match_server.db.tables import Collection, DataKey
from match_server.services.collection_ref import CollectionRef
from shared.encryption import Key, Keyring, about
from shared.errors import ConfigurationError, Damaged, KeyMissing

Purpose = Literal["seal", "digest"]
LoadRing = Callable[[], Keyring | None]
"""The master keys of this process; None: it was given none. Raises ConfigurationError."""

_KEYS = (
    select(DataKey.number, DataKey.purpose, DataKey.key_id, DataKey.wrapped, DataKey.retired_at)
    .where(DataKey.collection_number == bindparam("collection"))
    .order_by(DataKey.number)
)


@dataclass(frozen=True, slots=True)
class Cipher:
    """How what one collection keeps is written and read: as it is, or in envelopes."""

    collection: int  # its number
    ring: Keyring | None = None  # None: as it is
    data_key: int | None = None  # number of the key that seals, to be noted beside what it sealed
    digest_key: bytes | None = None

    def seal_vector(self, template_id: str, model_id: str, vector: bytes) -> bytes:
        """A template's little-endian float16, as its row holds it."""
        if self.ring is None:
            return vector
        return self.ring.seal(vector, self._template(template_id, model_id))

    def open_vectors(self, model_id: str, rows: Sequence[tuple[str, bytes]]) -> Sequence[bytes]:
        """The inverse, for rows (template id, as stored). Raises KeyMissing, Damaged."""
        if self.ring is None:
            return [stored for _, stored in rows]
        vectors = []
        for template_id, stored in rows:
            try:
                vectors.append(self.ring.open(stored, self._template(template_id, model_id)))
            except Damaged as error:
                raise Damaged(
                    f"template {template_id}: {error.message}; delete it, and enroll its person "
                    "again",
                    template=template_id,
                ) from None
        return vectors

    def seal_file(self, name: str, data: bytes) -> bytes:
        """A photo or thumbnail, as the file of that name holds it."""
        return data if self.ring is None else self.ring.seal(data, self._file(name))

    def open_file(self, name: str, stored: bytes) -> bytes:
        """The inverse. Raises KeyMissing, Damaged."""
        return stored if self.ring is None else self.ring.open(stored, self._file(name))

    def digest(self, data: bytes) -> bytes:
        """By which the same file is recognised; only who has the key can make it of a file."""
        if self.digest_key is None:
            return hashlib.sha256(data).digest()
        return hmac.digest(self.digest_key, data, "sha256")

    def _template(self, template_id: str, model_id: str) -> bytes:
        return about("template", self.collection, template_id, model_id)

    def _file(self, name: str) -> bytes:
        return about("file", self.collection, name)


class Vault:
    """The ciphers of all collections. Thread-safe."""

    def __init__(self, load: LoadRing) -> None:
        self._load = load
        self._ring: Keyring | None = None
        self._opened: dict[str, Key] = {}  # data keys by their ids, which are made from them

    def cipher(self, reader: Reader, owner: Collection | CollectionRef) -> Cipher:
        """How this collection is written and read now.

        Raises KeyMissing when it is encrypted and the master key for it was not given.
        """
        if not owner.encrypted:
            return Cipher(owner.number)
        seal: list[tuple[int, Key]] = []
        retired: list[Key] = []
        digest_key = None
        for number, purpose, key_id, wrapped, retired_at in reader.execute(
            _KEYS, {"collection": owner.number}
        ):
            key = self._opened.get(key_id) or self._open(owner, purpose, key_id, wrapped)
            if purpose == "digest":
                digest_key = key.secret
            elif retired_at is None:
                seal.insert(0, (number, key))
            else:
                retired.append(key)
        if not seal or digest_key is None:
            raise KeyMissing(f"the data keys of collection {owner.name!r} are not in the database")
        ring = Keyring([key for _, key in seal] + retired)
        return Cipher(owner.number, ring, seal[0][0], digest_key)

    def add_keys(self, session: Session, owner: Collection, now: datetime) -> None:
        """The first keys of a new encrypted collection. Raises KeyMissing without a master key."""
        for purpose in ("seal", "digest"):
            self.add_key(session, owner, purpose, now)

    def add_key(
        self, session: Session, owner: Collection, purpose: Purpose, now: datetime
    ) -> DataKey:
        """One more key of a collection; if it is for sealing, it seals from now on."""
        self._ring = self._loaded()  # a new master key may have come since the process started
        master, key = self._ring.current, Key.new()
        key_id = key.id.hex()
        row = DataKey(
            collection_number=owner.number,
            purpose=purpose,
            key_id=key_id,
            master_id=master.id.hex(),
            wrapped=master.seal(key.secret, _wrapping(owner.number, purpose, key_id)),
            created_at=now,
        )
        session.add(row)
        session.flush()
        return row

    def rewrap(self, session: Session) -> int:
        """Seal all data keys anew with the current master key; answers how many there were.

        What they sealed stays as it is. Raises KeyMissing when one cannot be opened, with nothing
        changed.
        """
        master = self.master().current
        rows = session.scalars(
            select(DataKey).where(DataKey.master_id != master.id.hex()).with_for_update()
        ).all()
        for row in rows:
            bound = _wrapping(row.collection_number, row.purpose, row.key_id)
            row.wrapped = master.seal(self._unwrap(row.wrapped, bound), bound)
            row.master_id = master.id.hex()
        return len(rows)

    def master(self) -> Keyring:
        """The master keys. Raises KeyMissing when none were given."""
        if self._ring is None:
            self._ring = self._loaded()
        return self._ring

    def sealing_key(self) -> Key | None:
        """The master key that seals, read now; None where none was given. Raises KeyMissing."""
        ring = self._read_ring()
        return None if ring is None else ring.current

    def open_with_master(self, sealed: bytes, bound: bytes) -> bytes:
        """What was sealed with a master key itself. Raises KeyMissing, Damaged."""
        return self._unwrap(sealed, bound)

    def locked(self, database: Database) -> list[str]:
        """The names of the encrypted collections that cannot be read, with the keys given."""
        with database.read() as session:
            owners = session.scalars(
                select(Collection).where(Collection.encrypted).order_by(Collection.name)
            ).all()
            locked = []
            for owner in owners:
                try:
                    self.cipher(session, owner)
                except (KeyMissing, Damaged):
                    locked.append(owner.name)
            return locked

    def _open(
        self, owner: Collection | CollectionRef, purpose: str, key_id: str, wrapped: bytes
    ) -> Key:
        try:
            key = Key(self._unwrap(wrapped, _wrapping(owner.number, purpose, key_id)))
        except KeyMissing as error:
            raise KeyMissing(
                f"collection {owner.name!r} is encrypted and cannot be read: {error.message}"
            ) from None
        self._opened[key_id] = key
        return key

    def _unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """A data key. The master keys are read again when it is of one that is not known yet."""
        try:
            return self.master().open(wrapped, bound)
        except KeyMissing:
            self._ring = self._loaded()
            return self._ring.open(wrapped, bound)

    def _read_ring(self) -> Keyring | None:
        try:
            return self._load()
        except ConfigurationError as error:
            raise KeyMissing(error.message) from error

    def _loaded(self) -> Keyring:
        ring = self._read_ring()
        if ring is None:
            raise KeyMissing(
                "no master key was given; set MUSTER_ENCRYPTION_KEY_FILE (or "
                "MUSTER_ENCRYPTION_KEY), with a key of `match-server keyring new`"
            )
        return ring


def _wrapping(collection: int, purpose: str, key_id: str) -> bytes:
    return about("data-key", collection, purpose, key_id)
