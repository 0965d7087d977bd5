"""Encryption at rest: AES-256-GCM envelopes, and the rings of keys that seal and open them.

An envelope is `MUE` + version (1 byte) + id of the key (8) + nonce (12) + ciphertext + tag (16):
40 bytes more than what is in it. The nonce is random, so one key may seal 2^32 envelopes
(NIST SP 800-38D, section 8.3); who seals more than a few gives each set of things (a collection, a
file) a data key of its own, and seals that key with the master key.

What an envelope is about (`about`) is authenticated with it: one that was put in another's place
does not open.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from shared.errors import ConfigurationError, Damaged, KeyMissing

SECRET_BYTES: Final = 32
SALT_BYTES: Final = 16
OVERHEAD_BYTES: Final = 40
"""How much longer an envelope is than what is in it."""

MAGIC = b"MUE\x01"
"""How every envelope begins."""
_ID_BYTES, _NONCE_BYTES, _TAG_BYTES = 8, 12, 16
_ID_END = len(MAGIC) + _ID_BYTES
_HEAD_BYTES = _ID_END + _NONCE_BYTES
_SCRYPT = {"length": SECRET_BYTES, "n": 2**17, "r": 8, "p": 1}  # 128 MiB, about half a second


class Key:
    """A secret of 256 bits. Its id is made from it, so a key cannot go by another's name.

    Raises ConfigurationError when the secret has another length.
    """

    __slots__ = ("_aes", "_secret", "id")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ConfigurationError(
                f"a key has {SECRET_BYTES} bytes, this one has {len(secret)}: make one with "
                "`match-server keyring new`"
            )
        self._secret = secret
        self._aes = AESGCM(secret)
        self.id: bytes = hashlib.sha256(b"muster key id\0" + secret).digest()[:_ID_BYTES]

    @classmethod
    def new(cls) -> "Key":
        return cls(os.urandom(SECRET_BYTES))

    @classmethod
    def from_text(cls, text: str) -> "Key":
        """The inverse of `text`. Raises ConfigurationError, which never shows what it was given."""
        try:
            return cls(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            raise ConfigurationError(
                f"a key is written as base64 of {SECRET_BYTES} bytes (44 characters); make one "
                "with `match-server keyring new`"
            ) from None

    @classmethod
    def from_passphrase(cls, passphrase: str, salt: bytes) -> "Key":
        """A key stretched by scrypt (RFC 7914): N = 2^17, r = 8, p = 1.

        The salt is random, `SALT_BYTES` long, and kept in the open beside what the key seals.
        """
        return cls(Scrypt(salt=salt, **_SCRYPT).derive(passphrase.encode()))

    @property
    def secret(self) -> bytes:
        """The bytes themselves: to be sealed with another key, never shown or logged."""
        return self._secret

    @property
    def text(self) -> str:
        """Base64 of the secret, as a key file holds it."""
        return base64.b64encode(self._secret).decode("ascii")

    def __repr__(self) -> str:
        return f"Key({self.id.hex()})"

    def seal(self, plain: bytes, about: bytes) -> bytes:
        """An envelope around `plain`."""
        nonce = os.urandom(_NONCE_BYTES)
        return b"".join((MAGIC, self.id, nonce, self._aes.encrypt(nonce, plain, about)))

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """What is in an envelope of this key. Raises Damaged when it is not as it was sealed."""
        try:
            return self._aes.decrypt(sealed[_ID_END:_HEAD_BYTES], sealed[_HEAD_BYTES:], about)
        except InvalidTag:
            raise Damaged(
                "what was encrypted does not open: it was changed, or put in another's place"
            ) from None


class Keyring:
    """Keys to open with, of which the first one seals: to rotate, a new one is put before them."""

    def __init__(self, keys: Sequence[Key]) -> None:
        """Raises ConfigurationError when there is no key at all."""
        if not keys:
            raise ConfigurationError("there is no key: make one with `match-server keyring new`")
        self._keys = {key.id: key for key in reversed(keys)}
        self.current = keys[0]

    @classmethod
    def from_text(cls, text: str) -> "Keyring":
        """Keys as base64, the one that seals first; spaces, commas and lines between them.

        A line's rest from `#` on is a comment. Raises ConfigurationError.
        """
        lines = (line.partition("#")[0] for line in text.splitlines())
        return cls(
            [Key.from_text(word) for line in lines for word in line.replace(",", " ").split()]
        )

    @classmethod
    def from_file(cls, path: Path) -> "Keyring":
        """The ring of a key file. Raises ConfigurationError when it cannot be read."""
        try:
            text = path.read_text("ascii")
        except OSError as error:
            raise ConfigurationError(
                f"the key file {path} cannot be read: {error.strerror}"
            ) from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"the key file {path} is not a text file of keys") from None
        try:
            return cls.from_text(text)
        except ConfigurationError as error:
            raise ConfigurationError(f"the key file {path}: {error.message}") from None

    def __iter__(self) -> Iterator[Key]:
        """The keys, that which seals first."""
        yield self.current
        yield from (key for key in self._keys.values() if key is not self.current)

    def __contains__(self, key_id: bytes) -> bool:
        return key_id in self._keys

    def __repr__(self) -> str:
        return f"Keyring({', '.join(key.id.hex() for key in self)})"

    def seal(self, plain: bytes, about: bytes) -> bytes:
        return self.current.seal(plain, about)

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """What is in an envelope.

        Raises KeyMissing when it was sealed with a key that is not on this ring; Damaged when it is
        no envelope, was changed, or is about something else.
        """
        key_id = key_id_of(sealed)
        key = self._keys.get(key_id)
        if key is None:
            raise KeyMissing(
                f"this was encrypted with the key {key_id.hex()}, which is not among the keys given"
            )
        return key.open(sealed, about)


def key_id_of(sealed: bytes) -> bytes:
    """The id of the key that an envelope was sealed with. Raises Damaged when it is no envelope."""
    if len(sealed) < _HEAD_BYTES + _TAG_BYTES or not sealed.startswith(MAGIC):
        raise Damaged("what should be encrypted is no envelope of a kind that this version knows")
    return sealed[len(MAGIC) : _ID_END]


def about(kind: str, *parts: str | int) -> bytes:
    """What an envelope is, in bytes: no two different lists of parts give the same."""
    words = [str(part).encode() for part in (kind, *parts)]
    return b"".join(len(word).to_bytes(4, "big") + word for word in words)
