"""Where a webhook may lead: to http and https, and never to what only a machine itself can see.

An administrator names the address, but the server is who calls it, from inside the network. Many
receivers stand at home (Home Assistant, Node-RED), so private addresses are allowed unless the
settings forbid them. Link-local ones never are: there clouds give out the machine's credentials.
"""

import ipaddress
import socket
from urllib.parse import SplitResult, urlsplit

from shared.errors import Unavailable

_PORTS = {"http": 80, "https": 443}


def web_address(url: str) -> SplitResult:
    """The parts of a webhook's URL. Raises ValueError for one that cannot be called."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("is an address like https://example.org/hook (http or https)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("may not hold a user name or password: the body is signed instead")
    if parts.fragment or not url.isascii() or any(character <= " " for character in url):
        raise ValueError("may hold neither a fragment nor blanks nor characters beyond ASCII")
    if parts.port == 0:
        raise ValueError("has a port that cannot be called")
    return parts


def port_of(parts: SplitResult) -> int:
    return parts.port or _PORTS[parts.scheme]


def addresses_of(parts: SplitResult, *, private: bool) -> list[str]:
    """The addresses of a URL's host that may be called; the caller connects to one of these.

    So the name is looked up once: one that answers otherwise a moment later gains nothing. Raises
    Unavailable when the name cannot be looked up, Refused when it leads where nothing may lead.
    """
    try:
        found = socket.getaddrinfo(parts.hostname, port_of(parts), type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"the host name cannot be looked up: {error.strerror}") from error
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    allowed = [address for address in addresses if _allowed(address, private=private)]
    if not allowed:
        raise Refused("the host's addresses are none that a webhook may call")
    return allowed


class Refused(Exception):
    """An address that is not called, whatever it would answer."""


def _allowed(text: str, *, private: bool) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:  # IPv6's lies in a reserved block
        return private
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return False
    if address.is_reserved:
        return False
    return address.is_global or private
