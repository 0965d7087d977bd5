"""Signatures of messages over MQTT: checking them, and which devices have to sign."""

from typing import Literal

from sqlalchemy import bindparam, select, update

from match_server.db.database import Database
from match_server.db.tables import Device
from match_server.services.auth.keys import Keys
from shared.errors import Forbidden
from shared.wire.message_keys import MessageKey, key_id_of
from shared.wire.topics import DeviceTopics

Unsigned = Literal["accept", "refuse"]
_SIGNS = select(Device.message_key).where(Device.name == bindparam("name"))


class MessageKeys:
    """The keys for messages between devices and this server. Thread-safe.

    A device that has signed once must always sign, so that an attacker cannot just leave the
    signature out. Other devices need not sign, unless `unsigned` is `refuse`.
    """

    def __init__(self, database: Database, keys: Keys, unsigned: Unsigned) -> None:
        self._database = database
        self._keys = keys
        self._unsigned = unsigned
        self._noted: dict[str, str] = {}  # by device: the key that its row names

    def of(self, topics: DeviceTopics, key_id: str) -> MessageKey | None:
        """The key of that id, if it is valid for this device."""
        return self._keys.message_key(key_id, topics.device)

    def signer(
        self, topics: DeviceTopics, topic: str, payload: bytes, signature: str | None
    ) -> MessageKey | None:
        """The key that signed this message of a device; None if it need not be signed.

        Raises Forbidden for a message without a valid signature.
        """
        device = topics.device
        if signature is None:
            if self._unsigned == "refuse" or self._signs(device):
                raise Forbidden(
                    f"device {device!r} has to sign its messages over the broker, and this one is "
                    "not signed: update its agent, and give it [server] with its key"
                )
            return None
        key = self.of(topics, key_id_of(signature))
        if key is None or not key.has_signed(topic, payload, signature):
            raise Forbidden(f"this is not signed with a valid key of device {device!r}")
        if self._noted.get(device) != key.id:
            self._note(device, key.id)
        return key

    def _signs(self, device: str) -> bool:
        return any(key is not None for (key,) in self._database.execute(_SIGNS, {"name": device}))

    def _note(self, device: str, key_id: str) -> None:
        with self._database.write() as session:
            named = update(Device).where(Device.name == device).values(message_key=key_id)
            if session.execute(named.returning(Device.number)).first() is not None:
                self._noted[device] = key_id
