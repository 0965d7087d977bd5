"""Addresses as they may be written down: without names, passwords, keys and tokens.

What is not known to be harmless is hidden, since cameras take passwords in every part of an
address: before the host, in the path (`/user=admin&password=x`), in the query (`?usr=a&pwd=x`).
"""

import re
import shlex
from collections.abc import Iterable
from typing import Final

HIDDEN: Final = "…"

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_URL_IN_TEXT: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_LOGIN_WITHOUT_SCHEME: Final = re.compile(r"[^/\s]*:.*@(.*)", re.DOTALL)
_PLAIN: Final = re.compile(r"[A-Za-z0-9._~-]{0,40}")
_TOKEN: Final = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9-]{16,}")
_ELEMENT: Final = re.compile(r"[A-Za-z0-9_./-]+")
_SECRET_IN_TEXT: Final = re.compile(
    r"(?i)([\w-]*(?:pass|pwd|pw|secret|token|user|usr|login)[\w-]*\s*[=:]\s*)"
    r"(\"[^\"]*\"|'[^']*'|\S+)"
)
_SECRET_PROPERTY: Final = re.compile(r"(?i).*(pass|pwd|pw|secret|token|key|user|usr|login|id)\b.*")
_HARMLESS: Final = re.compile(
    r"(?i)camera|channels?|chn|cmd|fps|height|media|profile|resolution|stream|streamtype|subtype"
    r"|type|unicast|width"
)


def redacted(address: str) -> str:
    """A camera's, broker's or server's address for people to read; a path is returned as it is.

    Where the address cannot be taken apart for certain, as with a password that holds `/` or `#`,
    only the host is shown. Of a GStreamer pipeline the names of its elements are.
    """
    if " ! " in address:
        return _pipeline(address)
    url = _URL.fullmatch(address.strip())
    if url is None:
        login = _LOGIN_WITHOUT_SCHEME.fullmatch(address)
        return address if login is None else f"{HIDDEN}@{_host(login[1])}"
    scheme, rest = url[1], url[2]
    authority, path, query = _parts(rest)
    if "@" in path or ("@" in query and not _HOST.fullmatch(authority.rpartition("@")[2])):
        return f"{scheme}://{HIDDEN}@{_host(rest.rpartition('@')[2])}"
    login_end, _, host = authority.rpartition("@")
    if "@" in query:  # a password with a "?", or a query that holds an "@"
        return f"{scheme}://{_host(host).partition(':')[0]}/{HIDDEN}"
    shown = f"{HIDDEN}@{_host(host)}" if login_end or "@" in authority else _host(host)
    return f"{scheme}://{shown}{_shown_path(path)}{_shown_query(query)}"


def redacted_text(text: str, secrets: Iterable[str] = ()) -> str:
    """A library's or a program's words, whose addresses and passwords are hidden.

    `secrets` are words that are hidden wherever they stand.
    """
    for secret in sorted(set(secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _URL_IN_TEXT.sub(lambda match: redacted(match[0]), text)
    return _SECRET_IN_TEXT.sub(rf"\1{HIDDEN}", text)


def pipeline_secrets(pipeline: str) -> list[str]:
    """The values in a GStreamer pipeline that may be names and passwords."""
    properties = [word.partition("=") for word in _words(pipeline)]
    return [
        value
        for name, _, value in properties
        if len(value) > 1 and ("://" in value or _SECRET_PROPERTY.fullmatch(name))
    ]


def _parts(rest: str) -> tuple[str, str, str]:
    """Authority, path, and query with fragment of what follows `://`."""
    end = next((at for at, character in enumerate(rest) if character in "/?#"), len(rest))
    authority, after = rest[:end], rest[end:]
    start = next((at for at, character in enumerate(after) if character in "?#"), len(after))
    return authority, after[:start], after[start:]


def _host(text: str) -> str:
    host = _HOST.match(text)
    whole = host is not None and (host.end() == len(text) or text[host.end()] in "/?#")
    return host[0] if host is not None and whole else HIDDEN


def _shown_path(path: str) -> str:
    return "/".join(
        part if _PLAIN.fullmatch(part) and not _TOKEN.fullmatch(part) else HIDDEN
        for part in path.split("/")
    )


def _shown_query(query: str) -> str:
    if len(query) < 2:
        return ""
    shown: list[str] = []
    for field in query[1:].split("&"):
        name, mark, value = field.partition("=")
        harmless = mark and _HARMLESS.fullmatch(name) and _PLAIN.fullmatch(value)
        if harmless or HIDDEN not in shown:
            shown.append(field if harmless else HIDDEN)
    return "?" + "&".join(shown)


def _pipeline(pipeline: str) -> str:
    elements: list[str] = [""]
    for word in _words(pipeline):
        if word == "!":
            elements.append("")
        elif not elements[-1]:
            name = word.partition(",")[0]
            elements[-1] = name if _ELEMENT.fullmatch(name) else HIDDEN
    return " ! ".join(elements) if any(elements) else "a GStreamer pipeline"


def _words(pipeline: str) -> list[str]:
    try:
        return shlex.split(pipeline)
    except ValueError:  # a quote without an end
        return []
