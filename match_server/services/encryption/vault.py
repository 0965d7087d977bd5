"""Encryption of templates and photos of encrypted collections.

Each collection has its own data keys, which the database holds encrypted with the master key. The
data keys are deleted with their collection. Then no remaining copy of its templates and photos (in
a backup, or in a storage that was not available) can be read without a backup of the keys.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from match_server.db.database import Database, Reader
from match_server.db.tables import Collection, DataKey
from match_server.services.collection_ref import CollectionRef
from shared.encryption import Key, Keyring, about
from shared.errors import ConfigurationError, Damaged, KeyMissing
from shared.wire.template_hash import Hashes, row_hashes

Purpose = Literal["seal", "digest"]
LoadRing = Callable[[], Keyring | None]
"""Loads the master keys of this process; None if it has none. Raises ConfigurationError."""

_KEYS = (
    select(DataKey.number, DataKey.purpose, DataKey.key_id, DataKey.wrapped, DataKey.retired_at)
    .where(DataKey.collection_number == bindparam("collection"))
    .order_by(DataKey.number)
)


@dataclass(frozen=True, slots=True)
class Cipher:
    """Encrypts and decrypts the data of one collection; leaves it as it is if not encrypted."""

    collection: int  # its number
    ring: Keyring | None = None  # None: not encrypted
    data_key: int | None = None  # number of the key that encrypts, for the row of the data
    digest_key: bytes | None = None

    def seal_vector(self, template_id: str, model_id: str, vector: bytes) -> bytes:
        """Encrypt a template (little-endian float16) for its row."""
        if self.ring is None:
            return vector
        return self.ring.seal(vector, self._template(template_id, model_id))

    def seal_vectors(
        self, model_id: str, ids: Sequence[str], vectors: Sequence[bytes]
    ) -> Sequence[bytes]:
        """Encrypt templates for their rows."""
        if self.ring is None:
            return vectors
        pairs = zip(ids, vectors, strict=True)
        return [self.seal_vector(template_id, model_id, vector) for template_id, vector in pairs]

    def open_vectors(self, model_id: str, rows: Sequence[tuple[str, bytes]]) -> Sequence[bytes]:
        """Decrypt templates of rows (template id, stored bytes). Raises KeyMissing, Damaged."""
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

    def hash_vectors(
        self, model_id: str, ids: Sequence[str], vectors: Sequence[bytes]
    ) -> list[int]:
        """The hashes of templates (little-endian float16, all of one length) for their rows."""
        if not vectors:
            return []
        rows = np.frombuffer(b"".join(vectors), dtype="<f2").reshape(len(vectors), -1)
        return self.seal_hashes(model_id, ids, row_hashes(rows))

    def seal_hashes(self, model_id: str, ids: Sequence[str], hashes: Hashes) -> list[int]:
        """Hashes of vectors in the form for their rows."""
        sealed = hashes ^ self._masks(model_id, ids)
        stored: list[int] = sealed.view(np.int64).tolist()
        return stored

    def open_hashes(
        self, model_id: str, ids: Sequence[str], stored: Sequence[int] | NDArray[np.int64]
    ) -> Hashes:
        """The hashes of the vectors, from those of the rows."""
        hashes = np.array(stored, dtype=np.int64).view(np.uint64)
        return hashes ^ self._masks(model_id, ids)

    def _masks(self, model_id: str, ids: Sequence[str]) -> NDArray[np.uint64]:
        """A secret number for each template of an encrypted collection, else zeros.

        Without it, the hash of a known photo's template could be compared with those of a stolen
        database.
        """
        if self.digest_key is None:
            return np.zeros(len(ids), dtype=np.uint64)
        start = hashlib.blake2b(key=self.digest_key, digest_size=8, person=b"template hash")
        masks = []
        for template_id in ids:
            mask = start.copy()
            mask.update(f"{model_id}\0{template_id}".encode())
            masks.append(mask.digest())
        return np.frombuffer(b"".join(masks), dtype="<u8")

    def seal_file(self, name: str, data: bytes) -> bytes:
        """Encrypt a photo or thumbnail for the file of this name."""
        return data if self.ring is None else self.ring.seal(data, self._file(name))

    def open_file(self, name: str, stored: bytes) -> bytes:
        """Decrypt the content of a file. Raises KeyMissing, Damaged."""
        return stored if self.ring is None else self.ring.open(stored, self._file(name))

    def digest(self, data: bytes) -> bytes:
        """A digest to recognise the same file; in encrypted collections only with their key."""
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
        self._opened: dict[str, Key] = {}  # data keys by id; an id is derived from its key

    def cipher(self, reader: Reader, collection: Collection | CollectionRef) -> Cipher:
        """The cipher of a collection.

        Raises KeyMissing if the collection is encrypted and its master key is missing.
        """
        if not collection.encrypted:
            return Cipher(collection.number)
        seal: list[tuple[int, Key]] = []
        retired: list[Key] = []
        digest_key = None
        for number, purpose, key_id, wrapped, retired_at in reader.execute(
            _KEYS, {"collection": collection.number}
        ):
            key = self._opened.get(key_id) or self._open(collection, purpose, key_id, wrapped)
            if purpose == "digest":
                digest_key = key.secret
            elif retired_at is None:
                seal.insert(0, (number, key))
            else:
                retired.append(key)
        if not seal or digest_key is None:
            raise KeyMissing(
                f"the data keys of collection {collection.name!r} are not in the database"
            )
        ring = Keyring([key for _, key in seal] + retired)
        return Cipher(collection.number, ring, seal[0][0], digest_key)

    def add_keys(self, session: Session, collection: Collection, now: datetime) -> None:
        """Make the first keys of a collection. Raises KeyMissing without a master key."""
        for purpose in ("seal", "digest"):
            self.add_key(session, collection, purpose, now)

    def add_key(
        self, session: Session, collection: Collection, purpose: Purpose, now: datetime
    ) -> DataKey:
        """One more key of a collection; if it is for sealing, it seals from now on."""
        self._ring = self._loaded()  # a new master key may have come since the process started
        master, key = self._ring.current, Key.new()
        key_id = key.id.hex()
        row = DataKey(
            collection_number=collection.number,
            purpose=purpose,
            key_id=key_id,
            master_id=master.id.hex(),
            wrapped=master.seal(key.secret, _wrapping(collection.number, purpose, key_id)),
            created_at=now,
        )
        session.add(row)
        session.flush()
        return row

    def rewrap(self, session: Session) -> int:
        """Encrypt all data keys again with the current master key. Returns how many changed.

        Data that they encrypt stays as it is. Raises KeyMissing if a key cannot be decrypted.
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
        """The master keys. Raises KeyMissing if there are none."""
        if self._ring is None:
            self._ring = self._loaded()
        return self._ring

    def sealing_key(self) -> Key | None:
        """The master key that encrypts, loaded now; None if there is none. Raises KeyMissing."""
        ring = self._read_ring()
        return None if ring is None else ring.current

    def open_with_master(self, sealed: bytes, bound: bytes) -> bytes:
        """Decrypt data that a master key itself encrypted. Raises KeyMissing, Damaged."""
        return self._unwrap(sealed, bound)

    def locked(self, database: Database) -> list[str]:
        """The names of the encrypted collections that cannot be read with these keys."""
        with database.read() as session:
            collections = session.scalars(
                select(Collection).where(Collection.encrypted).order_by(Collection.name)
            ).all()
            locked = []
            for collection in collections:
                try:
                    self.cipher(session, collection)
                except (KeyMissing, Damaged):
                    locked.append(collection.name)
            return locked

    def _open(
        self, collection: Collection | CollectionRef, purpose: str, key_id: str, wrapped: bytes
    ) -> Key:
        try:
            key = Key(self._unwrap(wrapped, _wrapping(collection.number, purpose, key_id)))
        except KeyMissing as error:
            raise KeyMissing(
                f"collection {collection.name!r} is encrypted and cannot be read: {error.message}"
            ) from None
        self._opened[key_id] = key
        return key

    def _unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """Decrypt a data key. Loads the master keys again if its master key is unknown."""
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
                "there is no master key; set MUSTER_ENCRYPTION_KEY_FILE (or "
                "MUSTER_ENCRYPTION_KEY), with a key of `match-server keyring new`"
            )
        return ring


def _wrapping(collection: int, purpose: str, key_id: str) -> bytes:
    return about("data-key", collection, purpose, key_id)
