"""Keys for what box and server say to each other over a broker that neither of them can trust.

Both derive them from the box's API key, of which the server keeps the SHA-256: so every enrolled
box has one. A message is signed (HMAC-SHA256, RFC 2104) over its topic and its payload, in an MQTT
user property beside the payload, which stays as it is for others who listen. What holds passwords
is sealed instead (AES-256-GCM, `shared.encryption`).
"""

import hashlib
import hmac
from typing import Final, Self

from shared.encryption import Key, Keyring, about
from shared.errors import Damaged, KeyMissing

PROPERTY: Final = "muster-mac"
"""Name of the user property (MQTT 5.0, 3.3.2.3.7) that holds a signature."""

_MAC: Final = b"muster mqtt mac v1"
_SEAL: Final = b"muster mqtt seal v1"


class MessageKey:
    """Signs, verifies, seals and opens messages of one box. `id` is the public part of its key."""

    __slots__ = ("_mac", "_seal", "id")

    def __init__(self, key_id: str, key_sha256: bytes) -> None:
        self.id = key_id
        self._mac = hmac.digest(key_sha256, _MAC, "sha256")
        self._seal = Keyring([Key(hmac.digest(key_sha256, _SEAL, "sha256"))])

    @classmethod
    def of_api_key(cls, key: str) -> Self | None:
        """That of a whole API key (`muster_ID_SECRET`); None for one of another form."""
        parts = key.split("_", 2)
        if len(parts) != 3 or not parts[1].isalnum():
            return None
        return cls(parts[1], hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())

    def __repr__(self) -> str:
        return f"MessageKey({self.id})"

    def sign(self, topic: str, payload: bytes) -> str:
        """What stands in the user property: id of the key, colon, HMAC in hex."""
        return f"{self.id}:{self._digest(topic, payload)}"

    def has_signed(self, topic: str, payload: bytes, signature: str | None) -> bool:
        expected = self.sign(topic, payload).encode()
        return signature is not None and hmac.compare_digest(
            expected, signature.encode("utf-8", "replace")
        )

    def seal(self, topic: str, plain: bytes) -> bytes:
        """An envelope that opens under this topic only."""
        return self._seal.seal(plain, about("mqtt", topic))

    def open(self, topic: str, sealed: bytes) -> bytes:
        """What is in an envelope. Raises Damaged when this key did not seal it for this topic."""
        try:
            return self._seal.open(sealed, about("mqtt", topic))
        except KeyMissing as error:
            raise Damaged(error.message) from None

    def _digest(self, topic: str, payload: bytes) -> str:
        return hmac.digest(self._mac, about("mqtt", topic) + payload, "sha256").hex()


def signature_of(properties: object) -> str | None:
    """The signature among the properties of a message that has come, if there is one."""
    pairs = getattr(properties, "UserProperty", None) or ()
    return next((value for name, value in pairs if name == PROPERTY), None)


def key_id_of(signature: str) -> str:
    """The id of the key that is said to have signed."""
    return signature.partition(":")[0]
