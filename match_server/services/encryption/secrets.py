"""Secrets that the server has to know again, sealed with the master key where there is one.

Keys of the API and enrollment codes are not among them: of those a hash is enough. A webhook's
secret signs, and what is wanted of a box may hold a camera's password.
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

_SEALED = "sealed"  # the only name in a document that is one


@dataclass(frozen=True, slots=True)
class SecretUse:
    """How many secrets are sealed with a master key; with None: how many lie open."""

    master_id: str | None
    secrets: int


class Secrets:
    """Seals and opens secrets. Without a master key they are kept as they are. Thread-safe."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def keep_webhook(self, row: Webhook, secret: bytes) -> None:
        """Put a webhook's secret into its row, which has its id. Raises KeyMissing."""
        _put_webhook(row, secret, self._vault.sealing_key())

    def of_webhook(self, row: Webhook) -> bytes:
        """Raises KeyMissing, Damaged."""
        if row.master_id is None:
            return row.secret
        return self._vault.open_with_master(row.secret, _of_webhook(row))

    def keep_document(self, device: int, document: Mapping[str, JsonValue]) -> Json:
        """What is wanted of a box (by its number), as its row keeps it.

        Raises KeyMissing; MalformedInput for a document that looks like one that is kept.
        """
        if _SEALED in document:
            raise MalformedInput(f"config.{_SEALED}: no box has such a setting")
        return _put_document(device, document, self._vault.sealing_key())

    def document(self, device: int, kept: Json) -> Json:
        """The inverse. Raises KeyMissing, Damaged."""
        sealed = _envelope_in(kept)
        if sealed is None:
            return kept
        found: Json = json.loads(self._vault.open_with_master(sealed, _of_document(device)))
        return found

    def used(self, session: Session) -> list[SecretUse]:
        """With which master keys there are secrets."""
        counts: dict[str | None, int] = {}
        for master_id in session.scalars(select(Webhook.master_id)):
            counts[master_id] = counts.get(master_id, 0) + 1
        for row in session.scalars(select(DeviceConfiguration)):
            if row.desired:
                master_id = _master_of(row.desired)
                counts[master_id] = counts.get(master_id, 0) + 1
        return [SecretUse(master_id, count) for master_id, count in counts.items()]

    def locked(self, database: Database) -> int:
        """How many cannot be opened with the keys given."""
        locked = 0
        with database.read() as session:
            for webhook in session.scalars(select(Webhook)):
                locked += not _opens(partial(self.of_webhook, webhook))
            for row in session.scalars(select(DeviceConfiguration)):
                locked += not _opens(partial(self.document, row.device_number, row.desired))
        return locked

    def reseal(self, session: Session) -> int:
        """Seal all with the current master key; answers how many were not yet.

        Raises KeyMissing when one cannot be opened, or there is no master key.
        """
        master = self._vault.master().current
        count = 0
        for webhook in session.scalars(select(Webhook)).all():
            if webhook.master_id != master.id.hex():
                _put_webhook(webhook, self.of_webhook(webhook), master)
                count += 1
        for wanted in session.scalars(select(DeviceConfiguration)).all():
            if wanted.desired and _master_of(wanted.desired) != master.id.hex():
                plain = self.document(wanted.device_number, wanted.desired)
                wanted.desired = _put_document(wanted.device_number, plain, master)
                count += 1
        return count

    def seal_plain(self, database: Database) -> int:
        """Where there is a master key by now, seal what was kept before there was one."""
        if self._vault.sealing_key() is None:
            return 0
        with database.read() as session:
            if all(one.master_id is not None for one in self.used(session)):
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
    """The envelope that a kept document is; None for one that lies open."""
    text = kept.get(_SEALED)
    if len(kept) != 1 or not isinstance(text, str):
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Damaged("what was wanted of a box is no envelope any more: want it again") from None


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
