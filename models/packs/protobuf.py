"""Reads and changes a protobuf message without its schema; all that is not changed stays as it is.

The wire format is that of https://protobuf.dev/programming-guides/encoding/ without groups.
"""

import struct
from typing import Final

VARINT: Final = 0
DELIMITED: Final = 2
_FIXED_32: Final = 5
_FIXED_BYTES: Final = {1: 8, _FIXED_32: 4}


class Message:
    """The fields of one message, in the order of the file.

    `messages` parses nested messages: a change of one changes this message too. Raises ValueError
    for bytes that are not a message.
    """

    def __init__(self, data: bytes | memoryview = b"") -> None:
        self._fields: list[tuple[int, int, Message | memoryview | bytes | int]] = []
        rest = memoryview(data)
        while rest:
            key, rest = _read_varint(rest)
            number, wire_type = key >> 3, key & 7
            if wire_type == VARINT:
                integer, rest = _read_varint(rest)
                self._fields.append((number, wire_type, integer))
                continue
            if wire_type == DELIMITED:
                size, rest = _read_varint(rest)
            elif wire_type in _FIXED_BYTES:
                size = _FIXED_BYTES[wire_type]
            else:
                raise ValueError(f"wire type {wire_type}")
            if size > len(rest):
                raise ValueError("the message is cut short")
            self._fields.append((number, wire_type, rest[:size]))
            rest = rest[size:]

    def messages(self, number: int) -> list["Message"]:
        """Returns all values of a field that holds messages."""
        result = []
        for index, (field, wire_type, value) in enumerate(self._fields):
            if field == number and not isinstance(value, int):
                nested = value if isinstance(value, Message) else Message(value)
                self._fields[index] = field, wire_type, nested
                result.append(nested)
        return result

    def bytes_of(self, number: int) -> bytes:
        """Returns the bytes of a field, joined if it is repeated; empty where there is none."""
        return b"".join(self._contents(number))

    def texts(self, number: int) -> list[str]:
        """Returns all values of a field of text."""
        return [bytes(content).decode() for content in self._contents(number)]

    def text(self, number: int) -> str:
        """Returns the last text of a field; empty where there is none."""
        return next(reversed(self.texts(number)), "")

    def integers(self, number: int) -> list[int]:
        """Returns all values of a field of int64, packed or not."""
        values = [value for field, _, value in self._fields if field == number]
        integers = [value for value in values if isinstance(value, int)]
        rest = memoryview(self.bytes_of(number))
        while rest:
            integer, rest = _read_varint(rest)
            integers.append(integer)
        return [integer - (1 << 64) if integer >> 63 else integer for integer in integers]

    def clear(self, *numbers: int) -> None:
        """Removes fields."""
        self._fields = [field for field in self._fields if field[0] not in numbers]

    def add(self, number: int, value: int | bytes) -> None:
        """Appends a field."""
        self._fields.append((number, VARINT if isinstance(value, int) else DELIMITED, value))

    def add_float(self, number: int, value: float) -> None:
        """Appends a field of 32-bit floating point."""
        self._fields.append((number, _FIXED_32, struct.pack("<f", value)))

    def _contents(self, number: int) -> list[bytes | memoryview]:
        return [
            value
            for field, _, value in self._fields
            if field == number and isinstance(value, bytes | memoryview)
        ]

    def encode(self) -> bytes:
        """Returns the message in the wire format."""
        parts: list[bytes | memoryview] = []
        for number, wire_type, value in self._fields:
            parts.append(_varint(number << 3 | wire_type))
            if isinstance(value, int):
                parts.append(_varint(value))
                continue
            content = value.encode() if isinstance(value, Message) else value
            if wire_type == DELIMITED:
                parts.append(_varint(len(content)))
            parts.append(content)
        return b"".join(parts)


def _read_varint(data: memoryview) -> tuple[int, memoryview]:
    value = 0
    for index, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, data[index + 1 :]
    raise ValueError("the message is cut short")


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
