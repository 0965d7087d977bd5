"""The login in the address of a network camera."""

from urllib.parse import quote, unquote, urlsplit, urlunsplit


def split_login(spec: str) -> tuple[str, tuple[str, str] | None]:
    """The address without its name and password, and these; None where it has none."""
    parts = urlsplit(spec)
    if parts.username is None:
        return spec, None
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, (unquote(parts.username), unquote(parts.password or ""))


def with_login(spec: str, login: tuple[str, str] | None) -> str:
    """The address with `login`, which replaces one that stands in the address."""
    if login is None:
        return spec
    parts = urlsplit(split_login(spec)[0])
    name, password = (quote(part, safe="") for part in login)
    return urlunsplit(parts._replace(netloc=f"{name}:{password}@{parts.netloc}"))
