"""A file of records in which truncation, reordering and changes are detected.

After the magic and a line of JSON come chunks: a flag for the last one (1 byte), the length (4,
big-endian), and the sealed bytes. Additional data is authenticated with each chunk: this file, the
position, and whether it is the last (Hoang, Reyhanitabar, Rogaway, Vizár: "Online authenticated
encryption and its nonce-reuse misuse-resistance", 2015, section 7). Sealed means AES-256-GCM with a
key from a passphrase. Without a passphrase a SHA-256 precedes the bytes, which detects accidents
but no forgery.

The content of all chunks together is a sequence of records: the lengths of a JSON object and of
its payload (4 and 8, big-endian), then both.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.encryption import SALT_BYTES, Key, Keyring, about
from shared.errors import ConfigurationError, Damaged, KeyMissing

MAGIC = b"MUSTER EXPORT\n"
FORMAT = 1
_CHUNK_BYTES = 1024 * 1024
_SEALED_BYTES = _CHUNK_BYTES + 1024  # with what sealing adds
_HEAD_BYTES = 4096
_CHUNK = struct.Struct(">BI")
_RECORD = struct.Struct(">IQ")
_JSON_BYTES = 32 * 1024 * 1024  # parsing them takes some twenty times as much memory
_PAYLOAD_BYTES = 256 * 1024 * 1024
_DIGEST_BYTES = 32
_CUT = "the file ends early: it was not written to its end, or not copied to its end"


@dataclass(frozen=True, slots=True)
class Record:
    """One record: a JSON object and a payload."""

    head: dict[str, Any]
    payload: bytes


class _Head(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: int
    salt: str | None  # base64; None: not encrypted
    nonce: str  # makes the chunks of two files without a passphrase differ


class _Sealer(Protocol):
    def seal(self, plain: bytes, about: bytes, /) -> bytes: ...

    def open(self, sealed: bytes, about: bytes, /) -> bytes:
        """Raises Damaged; KeyMissing for a wrong passphrase."""
        ...


class _Checked:
    """Adds checksums, without encryption."""

    def seal(self, plain: bytes, about: bytes) -> bytes:
        return self._digest(plain, about) + plain

    def open(self, sealed: bytes, about: bytes) -> bytes:
        plain = sealed[_DIGEST_BYTES:]
        if not hmac.compare_digest(self._digest(plain, about), sealed[:_DIGEST_BYTES]):
            raise Damaged("a checksum in the file is wrong: the file is damaged")
        return plain

    def _digest(self, plain: bytes, about: bytes) -> bytes:
        return hashlib.sha256(len(about).to_bytes(4, "big") + about + plain).digest()


class Writer:
    """Writes records to a file; `finish` writes its end, without which the file is invalid."""

    def __init__(self, stream: BinaryIO, passphrase: str | None) -> None:
        salt = None if passphrase is None else os.urandom(SALT_BYTES)
        head = _Head(
            format=FORMAT,
            salt=None if salt is None else base64.b64encode(salt).decode(),
            nonce=base64.b64encode(os.urandom(SALT_BYTES)).decode(),
        )
        line = head.model_dump_json().encode() + b"\n"
        self._stream = stream
        self._sealer = _sealer(passphrase, salt)
        self._head = line
        self._position = 0
        self._buffer = bytearray()
        stream.write(MAGIC + line)

    def add(self, head: dict[str, Any], payload: bytes = b"") -> None:
        """Append one record."""
        text = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
        self._buffer += _RECORD.pack(len(text), len(payload)) + text
        self._buffer += payload
        while len(self._buffer) > _CHUNK_BYTES:  # keep one chunk: it may be the last
            self._write(bytes(self._buffer[:_CHUNK_BYTES]), last=False)
            del self._buffer[:_CHUNK_BYTES]

    def finish(self) -> None:
        self._write(bytes(self._buffer), last=True)
        self._buffer.clear()

    def _write(self, plain: bytes, *, last: bool) -> None:
        sealed = self._sealer.seal(plain, _about(self._head, self._position, last))
        self._stream.write(_CHUNK.pack(last, len(sealed)) + sealed)
        self._position += 1


class Reader:
    """The records of a file, each verified before it is returned.

    Raises ConfigurationError for a file of another kind or a newer format, or a passphrase that is
    missing or not needed; KeyMissing for a wrong one; Damaged (also while iterating).
    """

    def __init__(self, stream: BinaryIO, passphrase: str | None) -> None:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ConfigurationError("this file was not written by `match-server export`")
        self._head = stream.readline(_HEAD_BYTES)
        head = _parsed(self._head)
        if head.salt is not None and passphrase is None:
            raise ConfigurationError(
                "the file is encrypted: give its passphrase with --passphrase-file, or in the "
                "variable MUSTER_EXPORT_PASSPHRASE"
            )
        if head.salt is None and passphrase is not None:
            raise ConfigurationError("a passphrase was given, but the file is not encrypted")
        self._stream = stream
        self._sealer = _sealer(passphrase, _salt(head))
        self._position = 0
        self._last = False
        self._buffer = bytearray()

    def __iter__(self) -> Iterator[Record]:
        while not (self._last and not self._buffer):
            lengths = _RECORD.unpack(self._take(_RECORD.size))
            if lengths[0] > _JSON_BYTES or lengths[1] > _PAYLOAD_BYTES:
                raise Damaged("the file claims a record that is too large")
            text, payload = self._take(lengths[0]), self._take(lengths[1])
            try:
                head = json.loads(text)
            except (ValueError, RecursionError):
                raise Damaged("a record in the file is not JSON") from None
            if not isinstance(head, dict):
                raise Damaged("a record in the file is not an object")
            yield Record(head, payload)
            if not self._buffer and not self._last:
                self._read()
        if self._stream.read(1):
            raise Damaged("the file has data after its end")

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if self._last:
                raise Damaged(_CUT)
            self._read()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _read(self) -> None:
        start = self._stream.read(_CHUNK.size)
        if len(start) < _CHUNK.size:
            raise Damaged(_CUT)
        last, length = _CHUNK.unpack(start)
        if last > 1 or length > _SEALED_BYTES:
            raise Damaged("a chunk of the file is invalid: the file is damaged")
        sealed = self._stream.read(length)
        if len(sealed) < length:
            raise Damaged(_CUT)
        try:
            plain = self._sealer.open(sealed, _about(self._head, self._position, bool(last)))
        except KeyMissing:
            raise KeyMissing("wrong passphrase for this file") from None
        self._buffer += plain
        self._position += 1
        self._last = bool(last)


def _sealer(passphrase: str | None, salt: bytes | None) -> _Sealer:
    if passphrase is None or salt is None:
        return _Checked()
    return Keyring([Key.from_passphrase(passphrase, salt)])


def _about(head: bytes, position: int, last: bool) -> bytes:
    return about("export", hashlib.sha256(head).hexdigest(), position, int(last))


def _parsed(line: bytes) -> _Head:
    try:
        version = json.loads(line)["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged("the beginning of the file cannot be read: it was damaged") from None
    if not isinstance(version, int):
        raise Damaged("the beginning of the file cannot be read: it was damaged")
    if version != FORMAT:
        raise ConfigurationError(
            f"the file has format {version}, this version reads format {FORMAT}: take the version "
            "of Muster that wrote it, or a newer one"
        )
    try:
        return _Head.model_validate_json(line)
    except ValidationError:
        raise Damaged("the beginning of the file cannot be read: it was damaged") from None


def _salt(head: _Head) -> bytes | None:
    try:
        return None if head.salt is None else base64.b64decode(head.salt, validate=True)
    except (binascii.Error, ValueError):
        raise Damaged("the beginning of the file cannot be read: it was damaged") from None
