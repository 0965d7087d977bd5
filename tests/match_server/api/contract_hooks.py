"""What schemathesis does not know by itself: how NDJSON is written."""

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """One line."""
    return json.dumps(value).encode() + b"\n"
