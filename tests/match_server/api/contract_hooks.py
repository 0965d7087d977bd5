"""A serializer of NDJSON for schemathesis, which has none."""

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    """The value as a line."""
    return json.dumps(value).encode() + b"\n"
