"""Logging in at a camera over HTTP: digest by SHA-256 or MD5, or basic, whatever it offers."""

import re
from dataclasses import dataclass
from typing import Any, Final

import requests
from requests.auth import HTTPDigestAuth, _basic_auth_str
from requests.utils import parse_dict_header

_SCHEME: Final = re.compile(r"(?:^|,)\s*([A-Za-z]+)(?=\s+[\w-]+\s*=|\s*(?:,|$))")
_ALGORITHMS: Final = ("SHA-512", "SHA-256", "SHA", "MD5", "MD5-SESS")  # what requests knows


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to log in that a camera offers."""

    scheme: str  # "digest" or "basic", or what is not known here
    text: str  # as it stands in the header, scheme and all

    @property
    def rank(self) -> int:
        """The order of preference, the best first; -1 for what is not known here."""
        if self.scheme == "basic":
            return len(_ALGORITHMS)
        if self.scheme != "digest":
            return -1
        fields = parse_dict_header(self.text.partition(" ")[2])  # type: ignore[no-untyped-call]
        algorithm = (fields.get("algorithm") or "MD5").upper()
        qop = [value.strip() for value in (fields.get("qop") or "auth").split(",")]
        return _ALGORITHMS.index(algorithm) if algorithm in _ALGORITHMS and "auth" in qop else -1


def offers_of(response: requests.Response) -> list[Offer]:
    """Those of an answer 401; several may stand in one header line (RFC 9110, 11.6.1)."""
    offers = []
    for line in response.raw.headers.getlist("WWW-Authenticate"):
        starts = [match.start(1) for match in _SCHEME.finditer(line)]
        for start, end in zip(starts, [*starts[1:], len(line)], strict=True):
            text = line[start:end].rstrip(" ,")
            offers.append(Offer(text.partition(" ")[0].lower(), text))
    return offers


class CameraLogin(HTTPDigestAuth):
    """A name and a password for one camera; UTF-8 beyond ASCII (RFC 7616 and 7617)."""

    def __init__(self, name: str, password: str) -> None:
        super().__init__(name, password)
        self._basic = _basic_auth_str(name.encode(), password.encode())

    def build_digest_header(self, method: str, url: str) -> str | None:
        header = super().build_digest_header(method, url)  # type: ignore[no-untyped-call]
        # http.client writes a header's characters as bytes of their own number.
        return None if header is None else header.encode().decode("latin-1")

    def handle_401(self, r: requests.Response, **kwargs: Any) -> requests.Response:
        """Goes on with the best offer alone: taken together they cannot be told apart."""
        if r.status_code != requests.codes.unauthorized:
            return super().handle_401(r, **kwargs)  # type: ignore[no-untyped-call, no-any-return]
        known = sorted((offer for offer in offers_of(r) if offer.rank >= 0), key=lambda o: o.rank)
        if not known:
            return r
        if known[0].scheme == "digest":
            r.headers["www-authenticate"] = known[0].text
            return super().handle_401(r, **kwargs)  # type: ignore[no-untyped-call, no-any-return]
        r.close()
        again = r.request.copy()
        again.headers["Authorization"] = self._basic
        answer: requests.Response = r.connection.send(again, **kwargs)
        answer.history.append(r)
        answer.request = again
        return answer
