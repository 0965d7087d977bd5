"""Identifiers: UUIDv7 (RFC 9562), whose order is the order of creation."""

import re

import uuid6

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
"""Names in topics, paths and file names: at most 63 of letters, digits, `_`, `.`, `-`."""

UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

_NAME = re.compile(NAME_PATTERN)


def new_id() -> str:
    """A new UUIDv7 in its usual 36-character form."""
    return str(uuid6.uuid7())


def is_name(text: str) -> bool:
    """Whether `text` may stand in a topic, a path or a file name (`NAME_PATTERN`)."""
    return _NAME.fullmatch(text) is not None
