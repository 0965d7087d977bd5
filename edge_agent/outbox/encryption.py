"""Encrypts the stored probes with the device's key (AES-256-GCM).

A probe has a template and a picture of a face. Older versions stored probes in plain text; they
are encrypted when the outbox is opened, and nothing of the plain text stays in its files.
"""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_agent.config.key_file import device_keys
from shared.encryption import MAGIC, Keyring, about
from shared.errors import KeyMissing, Unavailable

log = logging.getLogger(__name__)

_ENCRYPTED: Final = 2  # `user_version` of a file in which every probe is encrypted
_BATCH: Final = 100

Decrypt = Callable[[int, str, bytes], bytes]
"""Returns the wire form of a row (number, id, stored bytes). Raises Damaged or KeyMissing."""


class ProbeEncryption:
    """Encrypts and decrypts one device's probes. The number and the id are authenticated."""

    def __init__(self, folder: Path, device: str, key_file: Path | None) -> None:
        self._folder = folder
        self._device = device
        self._key_file = key_file
        self._ring: Keyring | None = None

    def load(self) -> None:
        """Reads the key or makes one. While the disk is full it is made later, with the first use.

        Raises ConfigurationError for a configured key that cannot be read.
        """
        with suppress(Unavailable):
            self._keys()

    def encrypt(self, sequence: int, probe_id: str, body: bytes) -> bytes:
        """Raises Unavailable where a new key cannot be written to the disk at the moment."""
        return self._keys().seal(body, self._about(sequence, probe_id))

    def decrypt(self, sequence: int, probe_id: str, stored: bytes) -> bytes:
        """Returns plain text unchanged. Raises Damaged or KeyMissing."""
        if not stored.startswith(MAGIC):  # plain text begins with `{`
            return stored
        try:
            return self._keys().open(stored, self._about(sequence, probe_id))
        except Unavailable as error:
            raise KeyMissing(error.message) from error

    def _keys(self) -> Keyring:
        if self._ring is None:
            self._ring = device_keys(self._folder, self._key_file)
        return self._ring

    def _about(self, sequence: int, probe_id: str) -> bytes:
        return about("probe", self._device, sequence, probe_id)


def encrypt_stored(connection: sqlite3.Connection, encryption: ProbeEncryption) -> None:
    """Encrypts probes in plain text, and rewrites the file without the deleted ones.

    Where the disk has no room for that, it logs a warning; the next start tries again.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version >= _ENCRYPTED:
        return
    try:
        while _encrypt_some(connection, encryption):
            pass
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute(f"PRAGMA user_version = {_ENCRYPTED}")
    except (sqlite3.OperationalError, Unavailable) as error:
        log.warning("Probes of an older version stay unencrypted until the next start: %s", error)


def _encrypt_some(connection: sqlite3.Connection, encryption: ProbeEncryption) -> bool:
    """Encrypts a batch; returns False where every probe is encrypted."""
    rows = connection.execute(
        "SELECT sequence, probe_id, body FROM probe WHERE substr(body, 1, ?) <> ? LIMIT ?",
        (len(MAGIC), MAGIC, _BATCH),
    ).fetchall()
    if not rows:
        return False
    encrypted = [(encryption.encrypt(*row), row[0]) for row in rows]
    more = sum(len(body) for body, _ in encrypted) - sum(len(body) for _, _, body in rows)
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany("UPDATE probe SET body = ? WHERE sequence = ?", encrypted)
        connection.execute("UPDATE tally SET bytes = bytes + ?", (more,))
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True
