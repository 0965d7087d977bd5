"""The probes of an outbox as they rest: envelopes (AES-256-GCM) of the box's key.

A template and a picture of a face are in each. An outbox of a version before this one holds them
in the clear; it is taken over as it is opened, so that nothing of them is left in its files.
"""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_agent.config.key_file import box_keys
from shared.encryption import MAGIC, Keyring, about
from shared.errors import KeyMissing, Unavailable

log = logging.getLogger(__name__)

_SEALED: Final = 2  # the file's `user_version` from which on nothing is in the clear
_AT_ONCE: Final = 100

Open = Callable[[int, str, bytes], bytes]
"""From a row (number, id, as stored) to the wire form. Raises Damaged or KeyMissing."""


class Seal:
    """Seals and opens one device's probes. An envelope opens under its own number and id only."""

    def __init__(self, folder: Path, device: str, key_file: Path | None) -> None:
        self._folder = folder
        self._device = device
        self._key_file = key_file
        self._ring: Keyring | None = None

    def load(self) -> None:
        """Reads the key or makes one, as soon as the disk takes it.

        Raises ConfigurationError for a key that is given and cannot be read.
        """
        with suppress(Unavailable):
            self._keys()

    def seal(self, sequence: int, probe_id: str, body: bytes) -> bytes:
        """Raises Unavailable where the disk does not take a new key at the moment."""
        return self._keys().seal(body, self._about(sequence, probe_id))

    def open(self, sequence: int, probe_id: str, stored: bytes) -> bytes:
        """Raises Damaged or KeyMissing. What rests in the clear is answered as it is."""
        if not stored.startswith(MAGIC):  # a message in the clear begins with `{`
            return stored
        try:
            return self._keys().open(stored, self._about(sequence, probe_id))
        except Unavailable as error:
            raise KeyMissing(error.message) from error

    def _keys(self) -> Keyring:
        if self._ring is None:
            self._ring = box_keys(self._folder, self._key_file)
        return self._ring

    def _about(self, sequence: int, probe_id: str) -> bytes:
        return about("probe", self._device, sequence, probe_id)


def take_over(connection: sqlite3.Connection, seal: Seal) -> None:
    """Seals what rests in the clear, and rewrites the file without what was deleted before.

    Where the disk has no room for that it is done at a later start; until then it is said.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version >= _SEALED:
        return
    try:
        while _sealed_some(connection, seal):
            pass
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute(f"PRAGMA user_version = {_SEALED}")
    except (sqlite3.OperationalError, Unavailable) as error:
        log.warning("Probes from before wait in the outbox unencrypted, until a start: %s", error)


def _sealed_some(connection: sqlite3.Connection, seal: Seal) -> bool:
    rows = connection.execute(
        "SELECT sequence, probe_id, body FROM probe WHERE substr(body, 1, ?) <> ? LIMIT ?",
        (len(MAGIC), MAGIC, _AT_ONCE),
    ).fetchall()
    if not rows:
        return False
    sealed = [(seal.seal(*row), row[0]) for row in rows]
    more = sum(len(body) for body, _ in sealed) - sum(len(body) for _, _, body in rows)
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany("UPDATE probe SET body = ? WHERE sequence = ?", sealed)
        connection.execute("UPDATE tally SET bytes = bytes + ?", (more,))
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True
