"""Secrets that the server needs in plain text, encrypted with the master key if there is one.

API keys and enrollment codes are not among them, because their hashes are enough. The secret of a
webhook signs its requests, and the configuration of a device may hold the password of a camera.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from match_server.db.database import Database
from match_server.db.tables import DeviceConfiguration, Json, Webhook
from match_server.services.encryption.vault import Vault
from shared.encryption import Key, about, key_id_of
from shared.errors import Damaged, KeyMissing, MalformedInput

_SEALED = "sealed"  # the only key of an encrypted document


@dataclass(frozen=True, slots=True)
class SecretUse:
    """The number of secrets that a master key encrypts; None: that are not encrypted."""

    master_id: str | None
    secrets: int


class Secrets:
    """Encrypts and decrypts secrets. Without a master key they stay as they are. Thread-safe."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def keep_webhook(self, row: Webhook, secret: bytes) -> None:
        """Set the secret in the row of a webhook, which has its id. Raises KeyMissing."""
        _put_webhook(row, secret, self._vault.sealing_key())

    def of_webhook(self, row: Webhook) -> bytes:
        """The secret of a webhook. Raises KeyMissing, Damaged."""
        if row.master_id is None:
            return row.secret
        return self._vault.open_with_master(row.secret, _of_webhook(row))

    def keep_document(self, device: int, document: Mapping[str, JsonValue]) -> Json:
        """The configuration of a device (by number) as its row holds it.

        Raises KeyMissing; MalformedInput for a document that looks like an encrypted one.
        """
        if _SEALED in document:
            raise MalformedInput(f"config.{_SEALED}: no box has such a setting")
        return _put_document(device, document, self._vault.sealing_key())

    def document(self, device: int, kept: Json) -> Json:
        """The configuration in the value of a row. Raises KeyMissing, Damaged."""
        sealed = _envelope_in(kept)
        if sealed is None:
            return kept
        document: Json = json.loads(self._vault.open_with_master(sealed, _of_document(device)))
        return document

    def used(self, session: Session) -> list[SecretUse]:
        """The number of secrets by master key."""
        counts: dict[str | None, int] = {}
        for master_id in session.scalars(select(Webhook.master_id)):
            counts[master_id] = counts.get(master_id, 0) + 1
        for row in session.scalars(select(DeviceConfiguration)):
            if row.desired:
                master_id = _master_of(row.desired)
                counts[master_id] = counts.get(master_id, 0) + 1
        return [SecretUse(master_id, count) for master_id, count in counts.items()]

    def locked(self, database: Database) -> int:
        """How many secrets cannot be decrypted with the present keys."""
        locked = 0
        with database.read() as session:
            for webhook in session.scalars(select(Webhook)):
                locked += not _opens(partial(self.of_webhook, webhook))
            for row in session.scalars(select(DeviceConfiguration)):
                locked += not _opens(partial(self.document, row.device_number, row.desired))
        return locked

    def reseal(self, session: Session) -> int:
        """Encrypt all secrets with the current master key. Returns how many changed.

        Raises KeyMissing if a secret cannot be decrypted, or without a master key.
        """
        master = self._vault.master().current
        count = 0
        for webhook in session.scalars(select(Webhook)).all():
            if webhook.master_id != master.id.hex():
                _put_webhook(webhook, self.of_webhook(webhook), master)
                count += 1
        for row in session.scalars(select(DeviceConfiguration)).all():
            if row.desired and _master_of(row.desired) != master.id.hex():
                plain = self.document(row.device_number, row.desired)
                row.desired = _put_document(row.device_number, plain, master)
                count += 1
        return count

    def seal_plain(self, database: Database) -> int:
        """If there is a master key now, encrypt secrets that were stored without one."""
        if self._vault.sealing_key() is None:
            return 0
        with database.read() as session:
            if all(use.master_id is not None for use in self.used(session)):
                return 0
        with database.write() as session:
            return self.reseal(session)


def _put_webhook(row: Webhook, secret: bytes, master: Key | None) -> None:
    row.secret = secret if master is None else master.seal(secret, _of_webhook(row))
    row.master_id = None if master is None else master.id.hex()


def _put_document(device: int, document: Mapping[str, JsonValue], master: Key | None) -> Json:
    if master is None or not document:
        return dict(document)
    plain = json.dumps(dict(document), separators=(",", ":")).encode()
    return {_SEALED: base64.b64encode(master.seal(plain, _of_document(device))).decode()}


def _envelope_in(kept: Json) -> bytes | None:
    """The encrypted bytes in a stored document; None if it is not encrypted."""
    text = kept.get(_SEALED)
    if len(kept) != 1 or not isinstance(text, str):
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Damaged("the encrypted configuration of a device is damaged: set it again") from None


def _master_of(kept: Json) -> str | None:
    sealed = _envelope_in(kept)
    return None if sealed is None else key_id_of(sealed).hex()


def _opens(look: Callable[[], object]) -> bool:
    try:
        look()
    except (KeyMissing, Damaged):
        return False
    return True


def _of_webhook(row: Webhook) -> bytes:
    return about("webhook", row.id)


def _of_document(device: int) -> bytes:
    return about("device-configuration", device)
