"""Invitations of devices: a short code, typed in, or read from a QR code with the address.

A code is 40 random bits in Crockford's base 32 (https://www.crockford.com/base32.html): no letter
looks like a digit, and characters that people confuse are corrected.
"""

import re
import secrets
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qs, quote, urlsplit

from shared.errors import MalformedInput

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CHARACTERS: Final = 8
_HALF: Final = 4
_CONFUSED: Final = str.maketrans("OIL", "011")
_SCHEME: Final = "muster:enroll"
_FIELDS: Final = 8
_SHA256: Final = re.compile("[0-9a-f]{64}")


def new_code() -> str:
    """Returns a new code in the form `ABCD-1234`."""
    code = "".join(secrets.choice(_ALPHABET) for _ in range(_CHARACTERS))
    return f"{code[:_HALF]}-{code[_HALF:]}"


def plain_code(typed: str) -> str:
    """Returns the eight characters of a typed code. Raises MalformedInput if it is invalid."""
    code = "".join(typed.split()).replace("-", "").upper().translate(_CONFUSED)
    if len(code) != _CHARACTERS or set(code) - set(_ALPHABET):
        raise MalformedInput("a code has eight letters and digits, like ABCD-1234")
    return code


@dataclass(frozen=True, slots=True)
class Invitation:
    """The content of a QR code for a device."""

    server: str  # http(s)://…
    code: str
    certificate_sha256: str | None = None
    """Of the certificate (DER) that the server shows, where no public authority vouches for it."""

    def text(self) -> str:
        """As it stands in the picture: `muster:enroll?server=…&code=…`."""
        parts = [f"server={quote(self.server, safe=':/')}", f"code={self.code}"]
        if self.certificate_sha256 is not None:
            parts.append(f"certificate={self.certificate_sha256}")
        return f"{_SCHEME}?{'&'.join(parts)}"

    @classmethod
    def read(cls, text: str) -> Self:
        """Parses the text of a QR code. Raises MalformedInput if it is not an invitation."""
        scheme, _, query = text.strip().partition("?")
        try:
            fields = parse_qs(query, max_num_fields=_FIELDS)
            server, code = fields.get("server", [""])[0], fields.get("code", [""])[0]
            usable = _is_address(server)
        except ValueError:  # too many fields, half a bracket, a port that is no number
            usable = False
        if scheme != _SCHEME or not usable:
            raise MalformedInput("this is no invitation of a match-server")
        certificate = fields.get("certificate", [""])[0].lower() or None
        if certificate is not None and not _SHA256.fullmatch(certificate):
            raise MalformedInput("the invitation's certificate is no SHA-256")
        return cls(server, plain_code(code), certificate)


def _is_address(server: str) -> bool:
    """Whether this is http(s)://host or http(s)://host:port. Raises ValueError for a bad port."""
    parts = urlsplit(server)
    known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    return known and parts.username is None and server.isprintable() and " " not in server
