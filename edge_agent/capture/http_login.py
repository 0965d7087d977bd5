"""Login at a camera over HTTP: digest with SHA-256 or MD5, or basic, as the camera offers.

The digest itself is `requests`' HTTPDigestAuth. This module adds what that lacks: a choice between
several offers, basic as one of them, and names and passwords beyond Latin-1. With HTTPDigestAuth
alone, all tests of logins fail.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import requests
from requests.auth import HTTPDigestAuth, _basic_auth_str
from requests.utils import parse_dict_header

_SCHEME: Final = re.compile(r"(?:^|,)\s*([A-Za-z]+)(?=\s+[\w-]+\s*=|\s*(?:,|$))")
_ALGORITHMS: Final = ("SHA-512", "SHA-256", "SHA", "MD5", "MD5-SESS")  # that requests supports


@dataclass(frozen=True, slots=True)
class Offer:
    """One kind of login that a camera offers."""

    scheme: str  # in lower case, such as "digest"
    text: str  # from the header, with the scheme

    @property
    def rank(self) -> int:
        """The order of preference, the best first; -1 for an unsupported login."""
        if self.scheme == "basic":
            return len(_ALGORITHMS)
        if self.scheme != "digest":
            return -1
        fields = parse_dict_header(self.text.partition(" ")[2])  # type: ignore[no-untyped-call]
        algorithm = (fields.get("algorithm") or "MD5").upper()
        qop = [value.strip() for value in (fields.get("qop") or "auth").split(",")]
        return _ALGORITHMS.index(algorithm) if algorithm in _ALGORITHMS and "auth" in qop else -1


def offers_of(response: requests.Response) -> list[Offer]:
    """The offers of a response 401; one header line may hold several (RFC 9110, 11.6.1)."""
    offers = []
    for line in response.raw.headers.getlist("WWW-Authenticate"):
        starts = [match.start(1) for match in _SCHEME.finditer(line)]
        for start, end in zip(starts, [*starts[1:], len(line)], strict=True):
            text = line[start:end].rstrip(" ,")
            offers.append(Offer(text.partition(" ")[0].lower(), text))
    return offers


class CameraLogin(HTTPDigestAuth):
    """Name and password for one camera, sent in UTF-8 (RFC 7616 and 7617)."""

    def __init__(self, name: str, password: str) -> None:
        super().__init__(name, password)
        self._basic = _basic_auth_str(name.encode(), password.encode())

    def build_digest_header(self, method: str, url: str) -> str | None:
        header = super().build_digest_header(method, url)  # type: ignore[no-untyped-call]
        # http.client encodes headers in Latin-1: this makes it send UTF-8.
        return None if header is None else header.encode().decode("latin-1")

    def handle_401(self, r: requests.Response, **kwargs: Any) -> requests.Response:
        """Sends the request again with the best of the offered logins."""
        if r.status_code != requests.codes.unauthorized:
            return super().handle_401(r, **kwargs)  # type: ignore[no-untyped-call, no-any-return]
        known = [offer for offer in offers_of(r) if offer.rank >= 0]
        if not known:
            return r
        best = min(known, key=lambda offer: offer.rank)
        if best.scheme == "digest":
            r.headers["www-authenticate"] = best.text  # requests reads one offer only
            return super().handle_401(r, **kwargs)  # type: ignore[no-untyped-call, no-any-return]
        r.close()
        again = r.request.copy()
        again.headers["Authorization"] = self._basic
        response: requests.Response = r.connection.send(again, **kwargs)
        response.history.append(r)
        response.request = again
        return response
