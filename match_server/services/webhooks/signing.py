"""Signatures that let a receiver detect forged and replayed calls.

They follow the open specification "Standard Webhooks" (standardwebhooks.com), so that receivers can
check them with existing libraries: HMAC-SHA256 over id, time and body.
"""

import base64
import hashlib
import hmac
import secrets
from datetime import datetime

SECRET_BYTES = 32
_PREFIX = "whsec_"


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """The secret as text, which is shown once."""
    return _PREFIX + base64.b64encode(secret).decode()


def signed_headers(
    secret: bytes, message_id: str, sent_at: datetime, body: bytes
) -> dict[str, str]:
    """The headers for a body: id, seconds since 1970, and the signature of both and the body."""
    seconds = str(int(sent_at.timestamp()))
    signed = b".".join((message_id.encode(), seconds.encode(), body))
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
